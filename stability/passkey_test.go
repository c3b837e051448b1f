package stability_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/reconnect"
)

// The events of newer versions of whatsmeow, which are known by their names.
type (
	PairPasskeyRequest struct{ PublicKey *struct{} }
	PairPasskeyError   struct{ Error error }
)

func TestPasskeyHasTheTimeItNeeds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance().run()
		<-i.codes
		client := i.m.Client()
		time.Sleep(50 * time.Second)
		client.DangerousInternals().DispatchEvent(&PairPasskeyRequest{})
		shown := len(i.codes)
		time.Sleep(4 * time.Minute) // longer than all codes of a set last
		require.Len(t, i.codes, shown, "no other code meanwhile")
		require.Equal(t, reconnect.ReasonNone, i.status().LastDisconnectReason)
		client.DangerousInternals().DispatchEvent(&PairPasskeyError{})
		time.Sleep(2 * time.Minute)
		require.Greater(t, len(i.codes), shown, "it came to nothing: the next code")
		i.forget()
		i.pair()
		i.stop()
	})
}
