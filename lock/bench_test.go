package lock_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/lock/locktest"
)

func BenchmarkHeld(b *testing.B) {
	l, err := lock.New(locktest.NewStore(), "a")
	require.NoError(b, err)
	defer l.Close(b.Context())
	term, err := l.Acquire(b.Context())
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if !term.Held() {
			b.Fatal("not held")
		}
	}
}

func TestHeldAllocatesNothing(t *testing.T) {
	l := newLease(t, locktest.NewStore(), "a")
	term := acquire(t, l)
	require.Zero(t, testing.AllocsPerRun(1000, func() { term.Held() }))
}
