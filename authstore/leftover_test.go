package authstore

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestLeftoversAreThoseOfAnEarlierTermThatNobodyAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		nobody := func([]byte) Leftover { return LeftoverPerhapsHandled }
		for n := range byte(5) {
			require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{n}, []byte{'m', n}, time.Now()))
			time.Sleep(time.Minute)
		}
		count := func() int { n, _ := c.LeftoverEvents(); return n }
		require.NoError(t, c.SettleEvents(nobody))
		require.Zero(t, count(), "a handler of this term may have it")

		c, d, _ = reopen(t, kv, c)
		require.Zero(t, count())
		_, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{0})
		require.NoError(t, err)
		c.DeliveredEvent([32]byte{1})
		require.NoError(t, c.SettleEvents(func(plaintext []byte) Leftover {
			if plaintext[1] == 2 {
				return LeftoverKnown
			}
			return LeftoverPerhapsHandled
		}))
		n, oldest := c.LeftoverEvents()
		require.Equal(t, 2, n)
		require.WithinDuration(t, time.Now().Add(-2*time.Minute), oldest, time.Second, "the fourth, and the fifth")

		c, d, _ = reopen(t, kv, c)
		require.Equal(t, 2, count(), "it is in the store")
		e, err := d.EventBuffer.GetBufferedEvent(bg, [32]byte{3})
		require.NoError(t, err)
		require.Equal(t, []byte{'m', 3}, e.Plaintext, "asked for after all")
		require.Equal(t, 1, count())
		c.DeliveredEvent([32]byte{0})
		c.DeliveredEvent([32]byte{1})
		c.DeliveredEvent([32]byte{2})
		require.NoError(t, c.SettleEvents(nobody))
		time.Sleep(eventTTL - time.Hour)
		require.NoError(t, c.SettleEvents(nobody))
		require.Equal(t, 1, count())
		before := kv.count("event")
		time.Sleep(2 * time.Hour)
		require.NoError(t, c.SettleEvents(nobody))
		require.Zero(t, count())
		time.Sleep(time.Minute)
		require.Equal(t, before-1, kv.count("event"))
		e, err = d.EventBuffer.GetBufferedEvent(bg, [32]byte{0})
		require.NoError(t, err)
		require.NotNil(t, e, "what the service delivers stays for ever")
		_, ok := storeOf(d).im.get(tMisc, leftoverID)
		require.False(t, ok)
	})
}

// A message that no handler was given does not count as handled, and goes like the others.
func TestUselessLeftoverIsNotCountedAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, []byte("odd"), time.Now()))
		useless := func([]byte) Leftover { return LeftoverUseless }
		for range 2 {
			c, _, _ = reopen(t, kv, c)
			require.NoError(t, c.SettleEvents(useless))
			n, _ := c.LeftoverEvents()
			require.Zero(t, n)
			time.Sleep(time.Minute)
			require.Equal(t, 1, kv.count("event"))
		}
		time.Sleep(eventTTL)
		require.NoError(t, c.SettleEvents(useless))
		time.Sleep(time.Minute)
		require.Zero(t, kv.count("event"))
	})
}

func TestLookingForLeftoversWritesNothingWhereThereIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		kv := newMapKV()
		c, d, _ := open(t, kv)
		require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, []byte("m"), time.Now()))
		c, _, _ = reopen(t, kv, c, WithRetention(Retention{FinishedEvents: Forever}))
		settle := func() {
			require.NoError(t, c.SettleEvents(func([]byte) Leftover { return LeftoverPerhapsHandled }))
			time.Sleep(time.Minute)
		}
		settle()
		was := kv.commits.Load()
		for range 400 {
			time.Sleep(24 * time.Hour)
			settle()
		}
		n, _ := c.LeftoverEvents()
		require.Equal(t, 1, n, "it is kept for ever")
		require.Equal(t, was, kv.commits.Load())
	})
}
