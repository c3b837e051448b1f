package authstore

import (
	"math/rand/v2"
	"testing"
	"time"
)

// For the tests that run real clients, outside the package.

type TestKV = mapKV

// NewTestKV is a KV in memory whose calls take up to latency.
func NewTestKV(latency time.Duration) *TestKV {
	kv := newMapKV()
	kv.SetLatency(latency)
	kv.before.set(func(string, Batch) error {
		if most := kv.delay.Load(); most > 0 {
			time.Sleep(time.Duration(rand.Int64N(most)))
		}
		return nil
	})
	return kv
}

// SetLatency is of the calls that begin from now on.
func (m *mapKV) SetLatency(most time.Duration) { m.delay.Store(int64(most)) }

func NewTestFence(epoch int64) *testFence { return newFence(epoch) }

func (m *mapKV) Commits() int64 { return m.commits.Load() }
func (m *mapKV) Reads() int64   { return m.gets.Load() + m.scans.Load() }

func ValidSession(t testing.TB, n uint32) []byte { return validSession(t, n) }
