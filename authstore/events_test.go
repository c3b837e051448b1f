package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A handler may still run when its device is over. The device in its place must
// hear that the message was handled, or it is handed over again.
func TestHandlerOfAnEndedDeviceIsHeard(t *testing.T) {
	kv := newMapKV()
	c, old, f := open(t, kv)
	require.NoError(t, old.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, []byte("hello"), time.Unix(1, 0)))
	d, err := c.Device(bg, f)
	require.NoError(t, err)
	require.NoError(t, old.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{1}))
	finished := func() {
		t.Helper()
		e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{1})
		require.NoError(t, err)
		require.NotNil(t, e)
		require.Nil(t, e.Plaintext)
	}
	finished()
	_, d, _ = reopen(t, kv, c)
	finished()
	require.ErrorIs(t, old.EventBuffer.ClearBufferedEventPlaintext(bg, [32]byte{1}), ErrSuperseded, "nobody to tell")
}

// A term that goes on for a year holds in memory what is of its last two weeks.
func TestLongTermHoldsNoMoreThanAShortOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		_, d, _ := open(t, kv)
		s := storeOf(d)
		fortnight := func(n int) (held int) {
			for i := range 200 {
				hash := [32]byte{byte(n), byte(i)}
				require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, hash, []byte("plain"), time.Now()))
				require.NoError(t, d.EventBuffer.ClearBufferedEventPlaintext(bg, hash))
			}
			time.Sleep(eventTTL + time.Hour)
			require.NoError(t, d.EventBuffer.DeleteOldBufferedHashes(bg))
			synctest.Wait() // the looks at tables that it begins
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.im.count() + len(s.im.packed[tSeen]) + len(s.im.seenAt)
		}
		first := fortnight(0)
		for n := 1; n < 26; n++ {
			require.LessOrEqual(t, fortnight(n), first)
		}
		require.Zero(t, kv.count("seen"))
	})
}
