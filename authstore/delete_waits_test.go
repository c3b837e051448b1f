package authstore

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A message with a new identity lets whatsmeow delete all sessions of its sender,
// in the transaction of that message. It waits for a send to the same contact, which
// begins a session with one more device: that one belongs to them too.
func TestDeleteInATransactionTakesWhatASendHasJustBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, d, _ := open(t, newMapKV())
		require.NoError(t, d.Sessions.PutSession(bg, "1:0", validSession(t, 5)))
		sent := make(chan error, 1)
		go func() {
			_, err := d.Sessions.GetManySessions(bg, []string{"1:0", "1:1"})
			if err == nil {
				time.Sleep(time.Second)
				err = d.Sessions.PutManySessions(bg, map[string][]byte{"1:0": validSession(t, 6), "1:1": validSession(t, 1)})
			}
			sent <- err
		}()
		synctest.Wait()
		require.NoError(t, d.EventBuffer.DoDecryptionTxn(bg, func(ctx context.Context) error {
			return d.Sessions.DeleteAllSessions(ctx, "1")
		}))
		require.NoError(t, <-sent)
		for _, addr := range []string{"1:0", "1:1"} {
			has, err := d.Sessions.HasSession(bg, addr)
			require.NoError(t, err)
			require.False(t, has, addr)
		}
		require.Empty(t, storeOf(d).win.held)
	})
}
