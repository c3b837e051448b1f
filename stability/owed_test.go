package stability

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/internal/book"
)

func TestRowIsOwedUntilItStands(t *testing.T) {
	k, now, fails := book.Key{ID: "A"}, time.Now(), errors.New("away")
	var o owing
	require.False(t, o.paid(k, true, nil, now))
	require.Empty(t, o.rows, "nothing was owed")

	o.owe(k, now)
	require.False(t, o.paid(k, false, nil, now))
	require.Contains(t, o.rows, k, "a deferred write proves nothing")
	o.landed(now.Add(owedFor - 1))
	require.Contains(t, o.rows, k)
	o.loads = 1
	o.landed(now.Add(owedFor))
	require.False(t, o.paid(k, true, nil, now))
	require.Contains(t, o.rows, k, "a load may have read the row before")
	o.loads = 0
	require.False(t, o.paid(k, true, nil, now))
	require.Empty(t, o.rows)

	require.True(t, o.paid(k, true, fails, now), "it is written again soon")
	require.False(t, o.paid(k, true, fails, now), "that is known")
	o.owe(k, now)
	require.False(t, o.paid(k, false, nil, now))
	o.landed(now.Add(owedFor))
	require.Contains(t, o.rows, k, "it has failed, and a deferred write proves nothing")
	require.False(t, o.paid(k, true, nil, now))
	require.Empty(t, o.rows)
}

func TestRowsThatFailAreTriedMoreAndMoreRarely(t *testing.T) {
	var o owing
	now, last := time.Now(), time.Duration(0)
	for range 20 {
		o.tried(errors.New("away"), now)
		pause := o.nextTry().Sub(now)
		require.GreaterOrEqual(t, pause, last)
		require.LessOrEqual(t, pause, owedPause)
		last = pause
	}
	require.Equal(t, owedPause, last)
	o.tried(nil, now)
	require.Equal(t, time.Second, o.nextTry().Sub(now))
}

func TestNextTermKnowsWhatAHandlerTook(t *testing.T) {
	now := time.Now()
	took, other := book.Entry{Key: book.Key{ID: "A"}, First: now, Last: now, Tries: 2}, book.Entry{Key: book.Key{ID: "B"}}
	o := owing{unpaid: 3, paidAt: now}
	o.owe(took.Key, now)
	o.owe(other.Key, now)
	o.took(took)
	require.True(t, o.newer(other, true), "in the same term memory is newer")
	o.inherit()
	require.Len(t, o.rows, 1)
	require.True(t, o.nextTry().IsZero() || o.nextTry().Before(now))
	require.True(t, o.newer(took, false))
	require.False(t, o.newer(other, false))
	took.Tries++
	require.False(t, o.newer(took, false), "another holder has tried it since")
}
