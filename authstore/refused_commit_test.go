package authstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// whatsmeow takes an error of the commit for a message that it cannot decrypt, and
// acknowledges it. So the delivery hears of it before.
func TestDeliveryHearsOfACommitThatIsRefused(t *testing.T) {
	kv := newMapKV()
	_, d, fence := open(t, kv)
	receive := func(f *follower, hash byte) error {
		return d.EventBuffer.DoDecryptionTxn(WithDelivery(bg, f), func(ctx context.Context) error {
			return d.EventBuffer.PutBufferedEvent(ctx, [32]byte{hash}, []byte("text"), time.Now())
		})
	}
	refuse(kv, func(k Key) bool { return k.Kind == "event" })
	f := &follower{failed: errors.New("noted")}
	require.Equal(t, f.failed, receive(f, 1))
	require.Len(t, f.ended, 1)
	require.Contains(t, f.ended[0], ErrTooLarge.Error())

	kv.before.set(func(string, Batch) error { return ErrFenced })
	f = &follower{}
	require.ErrorIs(t, receive(f, 2), context.Canceled)
	require.Empty(t, f.ended, "the message comes again in the next term")
	require.EqualValues(t, 1, fence.cuts.Load())
}
