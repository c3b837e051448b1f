package stability_test

import (
	"context"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"

	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The events of newer versions of whatsmeow, which are known by their names.
type (
	PairPasskeyRequest      struct{ PublicKey *struct{} }
	PairPasskeyConfirmation struct{ SkipHandoffUX bool }
	PairPasskeyError        struct{ Error error }
)

// asked is an instance whose first code was scanned by somebody who is asked for
// a passkey, as far as the client says. The service waits, as it does then.
func asked(t *testing.T) (i *instance, client *whatsmeow.Client) {
	w := newWorldOn(t, wasim.WithQRLifetime(time.Minute, 10*time.Minute))
	i = w.instance().run()
	<-i.codes
	client = i.m.Client()
	time.Sleep(50 * time.Second)
	client.DangerousInternals().DispatchEvent(&PairPasskeyRequest{})
	return i, client
}

func TestPasskeyHasTheTimeItNeeds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		i, client := asked(t)
		time.Sleep(4 * time.Minute) // longer than all codes of a set last
		client.DangerousInternals().DispatchEvent(&PairPasskeyConfirmation{})
		time.Sleep(4 * time.Minute)
		require.Empty(t, i.codes, "no other code meanwhile")
		st := i.status()
		require.Equal(t, reconnect.ReasonNone, st.LastDisconnectReason)
		require.False(t, st.QRAvailable)
		require.True(t, st.PasskeyAsked)
		require.Contains(t, st.Summary, "asks for a passkey")
		i.stop()
	})
}

// The codes of a device that was asked for a passkey are of no use any more.
func TestPasskeyThatFailsLeadsToANewDevice(t *testing.T) {
	for name, fail := range map[string]func(*whatsmeow.Client){
		"an error":        func(c *whatsmeow.Client) { c.DangerousInternals().DispatchEvent(&PairPasskeyError{}) },
		"nobody answered": func(*whatsmeow.Client) { time.Sleep(passkeyTime) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				i, client := asked(t)
				fail(client)
				time.Sleep(10 * time.Second)
				require.Equal(t, reconnect.ReasonPairingFailed, i.status().LastDisconnectReason)
				require.Contains(t, i.status().LastDisconnectDetail, "passkey")
				require.NotSame(t, client, i.m.Client())
				i.pair().stop()
			})
		})
	}
}

const passkeyTime = 5 * time.Minute

func TestUnreadablePasskeyRequestLeavesTheCode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance().run()
		code := <-i.codes
		i.m.Client().DangerousInternals().DispatchEvent(&PairPasskeyError{})
		require.NoError(t, w.account.Phone().Scan(code.Code))
		i.ready().stop()
	})
}

// answer is a host that answers a request for a passkey, as README says. Older
// versions of whatsmeow have no such methods.
func answer(c *whatsmeow.Client, evt any, report func(error)) {
	switch v := reflect.ValueOf(evt); v.Elem().Type().Name() {
	case "PairPasskeyRequest":
		send := reflect.ValueOf(c).MethodByName("SendPasskeyResponse")
		passkey := reflect.New(send.Type().In(1).Elem())
		passkey.Elem().FieldByName("ID").SetString("key")
		passkey.Elem().FieldByName("RawID").SetBytes([]byte("key"))
		go func() {
			err, _ := send.Call([]reflect.Value{reflect.ValueOf(context.Background()), passkey})[0].Interface().(error)
			report(err)
		}()
	case "PairPasskeyConfirmation":
		go func() { report(any(c).(passkeys).SendPasskeyConfirmation(context.Background())) }()
	}
}

type passkeys interface {
	SendPasskeyConfirmation(context.Context) error
}

func TestPairingWithAPasskey(t *testing.T) {
	if _, can := any((*whatsmeow.Client)(nil)).(passkeys); !can {
		t.Skip("this whatsmeow knows no passkeys")
	}
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		errs := make(chan error, 8)
		i.onEvent = func(evt any) {
			if reflect.TypeOf(evt).Kind() == reflect.Pointer {
				answer(i.m.Client(), evt, func(err error) { errs <- err })
			}
		}
		i.run()
		code := <-i.codes
		time.Sleep(50 * time.Second)
		require.NoError(t, w.account.Phone().Scan(code.Code, wasim.AskForPasskey()))
		require.NoError(t, <-errs)
		require.NoError(t, <-errs)
		i.ready()
		require.NoError(t, w.account.PairingError())
		require.Empty(t, i.history(stability.EventDisconnected)[1:], "it took one pairing")
		i.stop()
	})
}
