package authstore

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// A send begins with a number while the number's sessions are being moved to its
// LID. When it has waited for them, its address is one where no answer is found.
func TestSendThatWaitsForAMoveIsToldOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		pn, lid := types.NewJID("15550009", types.DefaultUserServer), types.NewJID("900", types.HiddenUserServer)
		address := pn.SignalAddress().String()
		require.NoError(t, d.Sessions.PutSession(bg, address, validSession(t, 1)))
		require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
		written := make(chan struct{})
		kv.before.set(func(op string, _ Batch) error {
			if op == "commit" {
				<-written
			}
			return nil
		})
		moved, read := make(chan error, 1), make(chan error, 1)
		go func() { moved <- d.Sessions.MigratePNToLID(bg, pn, lid) }()
		synctest.Wait()
		go func() {
			_, err := d.Sessions.GetManySessions(bg, []string{address})
			read <- err
		}()
		synctest.Wait()
		close(written)
		require.NoError(t, <-moved)
		require.ErrorIs(t, <-read, ErrWindowBroken)
	})
}
