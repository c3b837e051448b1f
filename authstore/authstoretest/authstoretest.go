package authstoretest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
)

// Account is one account as one instance sees it.
type Account struct {
	KV   authstore.KV
	Lock lock.Store // whose epochs fence KV
	// Reopen ends this instance without releasing its lock, as a crash does,
	// and opens the same account again. The suite acquires the lock under the
	// same holder id afterwards. nil when nothing outlives the instance.
	Reopen func(t *testing.T) Account
	// Other opens a second instance of the same account while this one lives.
	// The suite releases the lock here before it acquires it there. nil when
	// there can be no second one.
	Other func(t *testing.T) Account
}

// Run tests a backend. open makes a new, empty account for each subtest and
// closes it with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Account) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Account)
	}{
		{"AnAbsentKeyIsAbsent", testAbsent},
		{"ACommitIsReadAtOnce", testReadYourWrites},
		{"AnEmptyValueIsAValue", testEmptyValue},
		{"ABatchPutsAndDeletesTogether", testPutAndDelete},
		{"TheSameBatchTwiceIsTheSameAsOnce", testIdempotent},
		{"AnEmptyBatchIsOnlyFenced", testEmptyBatch},
		{"KindsDoNotMix", testKinds},
		{"OddIDsAreKeptExactly", testOddIDs},
		{"PrefixScansAreExact", testPrefixScans},
		{"ManyRangesAreTheirScansTogether", testRanges},
		{"ValuesBelongToTheCaller", testOwnership},
		{"LargeValuesUpToTheLimit", testLargeValues},
		{"BeyondLimitsNothingIsWritten", testBeyondLimits},
		{"ABatchOfThousandsIsOneBatch", testLargeBatch},
		{"AScanMayBeLeftEarly", testScanBreak},
		{"AScanLetsItsLoopWrite", testScanWhileWriting},
		{"ACancelledCallWritesNothing", testCancelled},
		{"ACommitGivenUpMidwayIsWholeOrNotThere", testCancelledMidway},
		{"AReadGivenUpMidwayIsCompleteOrAnError", testReadCancelledMidway},
		{"RandomBatchesMatchAModel", testModel},
		{"ReadersNeverSeeHalfABatch", testAtomicReads},
		{"ConcurrentCommitsAllLand", testConcurrentCommits},
		{"WithoutATermNothingIsWritten", testNoTerm},
		{"AnOlderEpochIsFenced", testFenced},
		{"AnEpochFromTheFutureIsFenced", testFutureEpoch},
		{"NoCommitOfTheOldTermLandsInTheNewOne", testFencedRace},
		{"AnotherInstanceReadsWhatWasHandedOver", testOther},
		{"WhatWasCommittedSurvivesTheInstance", testReopen},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
}

const lease = time.Hour // longer than any test: expiry is locktest's concern

// nonces must differ between attempts, also between instances.
func nonce() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }

func acquire(t *testing.T, a Account, holder string) lock.Record {
	t.Helper()
	rec, granted, err := a.Lock.Acquire(t.Context(), holder, nonce(), lease)
	require.NoError(t, err)
	require.True(t, granted, "the lock must be free here; held by %q", rec.Holder)
	return rec
}

// hold acquires the lock and returns the epoch.
func hold(t *testing.T, a Account) int64 {
	t.Helper()
	return acquire(t, a, "one").Epoch
}

func put(kv ...string) authstore.Batch {
	var b authstore.Batch
	for i := 0; i < len(kv); i += 2 {
		b.Put = append(b.Put, authstore.Entry{Key: key(kv[i]), Value: []byte(kv[i+1])})
	}
	return b
}

// key parses "kind/id"; without a slash the kind is "session".
func key(s string) authstore.Key {
	kind, id, ok := strings.Cut(s, "/")
	if !ok {
		return authstore.Key{Kind: "session", ID: s}
	}
	return authstore.Key{Kind: authstore.Kind(kind), ID: id}
}

func keys(ss ...string) []authstore.Key {
	out := make([]authstore.Key, len(ss))
	for i, s := range ss {
		out[i] = key(s)
	}
	return out
}

func commit(t *testing.T, a Account, epoch int64, b authstore.Batch) {
	t.Helper()
	require.NoError(t, a.KV.Commit(t.Context(), epoch, b))
}

func get(t *testing.T, a Account, ks ...authstore.Key) map[authstore.Key][]byte {
	t.Helper()
	got, err := a.KV.Get(t.Context(), ks...)
	require.NoError(t, err)
	return got
}

// requireValue fails unless k holds exactly want.
func requireValue(t *testing.T, a Account, k authstore.Key, want []byte) {
	t.Helper()
	got, ok := get(t, a, k)[k]
	require.True(t, ok, "%s/%q is missing", k.Kind, short(k.ID))
	require.True(t, string(want) == string(got), "%s/%q: another value was read", k.Kind, short(k.ID))
}

func requireAbsent(t *testing.T, a Account, ks ...authstore.Key) {
	t.Helper()
	require.Empty(t, get(t, a, ks...))
}

func scan(t *testing.T, a Account, kind authstore.Kind, prefix string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for e, err := range a.KV.Scan(t.Context(), kind, prefix) {
		require.NoError(t, err)
		require.Equal(t, kind, e.Key.Kind)
		_, twice := got[e.Key.ID]
		require.False(t, twice, "a scan yielded %q twice", short(e.Key.ID))
		got[e.Key.ID] = string(e.Value)
	}
	return got
}

func short(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}

// random returns n bytes that do not compress.
func random(n int) []byte {
	b := make([]byte, n)
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	_, _ = rand.NewChaCha8(seed).Read(b)
	return b
}

func release(ctx context.Context, t *testing.T, a Account, rec lock.Record) {
	t.Helper()
	require.NoError(t, a.Lock.Release(ctx, rec))
}
