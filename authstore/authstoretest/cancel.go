package authstoretest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
)

const (
	cancelRounds = 60
	cancelKeys   = 20
)

// cancelAfter gives contexts that end at points spread over the time that f
// takes, and a little beyond.
func cancelAfter(t *testing.T, f func(context.Context), each func(round int, ctx context.Context)) {
	start := time.Now()
	f(t.Context())
	step := max(time.Since(start)*3/2/cancelRounds, time.Microsecond)
	for round := range cancelRounds {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(round)*step, cancel)
		each(round, ctx)
		timer.Stop()
		cancel()
	}
}

// testCancelledMidway: a caller that gives up on a commit does not know
// whether it landed, and neither half of it does alone. Repeated it is there:
// a lost reply is the same.
func testCancelledMidway(t *testing.T, a Account) {
	epoch := hold(t, a)
	batch := func(v string, round int) authstore.Batch {
		var b authstore.Batch
		for i := range cancelKeys {
			b.Put = append(b.Put, authstore.Entry{Key: key(fmt.Sprint("k", i)), Value: []byte(v)})
		}
		// One key comes with the odd rounds and goes with the even ones.
		if round%2 == 0 {
			b.Delete = keys("extra")
		} else {
			b.Put = append(b.Put, authstore.Entry{Key: key("extra"), Value: []byte(v)})
		}
		return b
	}
	state := func() string {
		got := scan(t, a, "session", "")
		v := got["k0"]
		for i := range cancelKeys {
			require.Equal(t, v, got[fmt.Sprint("k", i)], "half of a batch")
		}
		if extra, ok := got["extra"]; ok {
			require.Equal(t, v, extra, "half of a batch")
		}
		return v
	}
	last := "first"
	cancelAfter(t, func(ctx context.Context) {
		require.NoError(t, a.KV.Commit(ctx, epoch, batch(last, 0)))
	}, func(round int, ctx context.Context) {
		v := fmt.Sprint("v", round)
		b := batch(v, round)
		err := a.KV.Commit(ctx, epoch, b)
		if got := state(); err == nil {
			require.Equal(t, v, got)
		} else {
			require.Contains(t, []string{last, v}, got)
			require.False(t, errors.Is(err, authstore.ErrFenced) || errors.Is(err, authstore.ErrTooLarge) || errors.Is(err, authstore.ErrCorrupt),
				"a call that was given up is no permanent error: %v", err)
			commit(t, a, epoch, b) // the same once more
		}
		require.Equal(t, v, state())
		last = v
	})
}

// testReadCancelledMidway: a read that is given up is an error or complete;
// never an absence.
func testReadCancelledMidway(t *testing.T, a Account) {
	epoch := hold(t, a)
	var b authstore.Batch
	var all []authstore.Key
	for i := range cancelKeys {
		all = append(all, key(fmt.Sprint("k", i)))
		b.Put = append(b.Put, authstore.Entry{Key: all[i], Value: []byte("v")})
	}
	commit(t, a, epoch, b)
	cancelAfter(t, func(ctx context.Context) { get(t, a, all...) }, func(_ int, ctx context.Context) {
		if got, err := a.KV.Get(ctx, all...); err == nil {
			require.Len(t, got, len(all))
		}
	})
	cancelAfter(t, func(ctx context.Context) { scan(t, a, "session", "") }, func(_ int, ctx context.Context) {
		n, failed := 0, false
		for _, err := range a.KV.Scan(ctx, "session", "") {
			require.False(t, failed, "a scan ends after its error")
			if failed = err != nil; !failed {
				n++
			}
		}
		if !failed {
			require.Equal(t, len(all), n)
		}
	})
}
