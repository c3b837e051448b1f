package stability_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waWa6"
	"go.mau.fi/whatsmeow/store"

	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/memorybackend"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// traced is what tracing and mocks put around the default transport.
type traced struct{ http.RoundTripper }

// wrapDefault puts something around the default transport of the process.
func wrapDefault(t *testing.T) {
	def := http.DefaultTransport
	http.DefaultTransport = traced{def}
	t.Cleanup(func() { http.DefaultTransport = def })
}

func revision(n uint32) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, `{"client_revision":%d,}`, n) })
}

func TestRefreshedVersionIsUsedAtTheLogin(t *testing.T) {
	for name, wrapped := range map[string]bool{"plain": false, "wrapped default transport": true} {
		t.Run(name, func(t *testing.T) {
			const newer = 1_999_999_999
			bubble(t, func(t *testing.T) {
				w := newWorldOn(t, wasim.WithHTTP(revision(newer)))
				before := store.GetWAVersion()
				a := w.instance(stability.WithVersionRefresh(), keepsTheLock).run().pair() // and its client: no other can be made
				logsInWith := func() *waWa6.ClientPayload_UserAgent_AppVersion {
					return a.m.Client().GetClientPayload().GetUserAgent().GetAppVersion()
				}
				require.Equal(t, before[2], logsInWith().GetTertiary())
				time.Sleep(time.Minute)
				if wrapped {
					wrapDefault(t)
				}
				w.sim.Fault(wasim.Failure(405)).For(w.account.JID()).OnNextLogin()
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				time.Sleep(time.Hour)
				a.ready()
				require.EqualValues(t, newer, logsInWith().GetTertiary())
				require.Equal(t, before, store.GetWAVersion(), "the version of the process is its own")
				require.Equal(t, before[2], store.BaseClientPayload.GetUserAgent().GetAppVersion().GetTertiary())
				a.stop()
			})
		})
	}
}

func TestOlderVersionDoesNotReplaceANewerOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorldOn(t, wasim.WithHTTP(revision(1)))
		a := w.instance(stability.WithVersionRefresh()).run().pair()
		w.sim.Fault(wasim.Failure(405)).For(w.account.JID()).OnNextLogin()
		w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
		time.Sleep(time.Hour)
		a.ready()
		require.Equal(t, store.GetWAVersion()[2], a.m.Client().GetClientPayload().GetUserAgent().GetAppVersion().GetTertiary())
		a.stop()
	})
}

func TestRefreshedVersionIsUsedForPairing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorldOn(t, wasim.WithHTTP(revision(1_999_999_999)))
		a := w.instance(stability.WithVersionRefresh())
		w.sim.Fault(wasim.Failure(405)).OnNextLogin()
		a.run()
		time.Sleep(20 * time.Minute) // it tries rarely
		p := a.m.Client().GetClientPayload()
		require.EqualValues(t, 1_999_999_999, p.GetUserAgent().GetAppVersion().GetTertiary())
		hash := store.WAVersionContainer{2, 3000, 1_999_999_999}.Hash()
		require.Equal(t, hash[:], p.GetDevicePairingData().GetBuildHash())
		a.forget()
		a.pair()
		a.stop()
	})
}

// whatsmeow would panic.
func TestWrappedDefaultTransportEndsRunWithAnError(t *testing.T) {
	wrapDefault(t)
	m, err := stability.New(stability.WithBackend(memorybackend.New().Backend()), stability.WithLogger(logger()))
	require.NoError(t, err)
	err = m.Run(t.Context(), func(context.Context, *whatsmeow.Client) error { return nil })
	require.ErrorContains(t, err, "http.DefaultTransport is not an *http.Transport")
	require.NoError(t, m.Close(t.Context()))
}
