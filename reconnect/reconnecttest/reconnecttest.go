// Package reconnecttest is the conformance suite of reconnect.StateStore.
package reconnecttest

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
)

// Account is one account's state as one instance sees it.
type Account struct {
	State reconnect.StateStore
	Lock  lock.Store // whose epochs fence State
	// Reopen ends this instance without releasing its lock, as a crash does,
	// and opens the same account again. The suite acquires the lock under the
	// same holder id afterwards. nil when nothing outlives the instance.
	Reopen func(t *testing.T) Account
	// PlantNewer makes the stored state look as if a newer library had written
	// it. Required: every backend keeps a format version.
	PlantNewer func(t *testing.T)
}

// Run tests a backend. open makes a new, empty account for each subtest and
// closes it with t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Account) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Account)
	}{
		{"AStateNeverSavedIsZero", testZero},
		{"EveryFieldIsKept", testFields},
		{"ASaveReplacesTheWholeState", testReplace},
		{"AnOlderEpochIsFenced", testFenced},
		{"WithoutATermNothingIsWritten", testNoTerm},
		{"ANewerFormatIsNeverOverwritten", testNewer},
		{"ANewerStateIsNotSaved", testSaveNewer},
		{"ACancelledSaveWritesNothing", testCancelled},
		{"WhatIsReturnedBelongsToTheCaller", testOwnership},
		{"ConcurrentSavesLeaveOneOfThem", testConcurrent},
		{"TheStateSurvivesTheInstance", testReopen},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, open(t)) })
	}
}

func hold(t *testing.T, a Account) int64 {
	t.Helper()
	rec, granted, err := a.Lock.Acquire(t.Context(), "one", fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()), time.Hour)
	require.NoError(t, err)
	require.True(t, granted)
	return rec.Epoch
}

func load(t *testing.T, a Account) reconnect.State {
	t.Helper()
	s, err := a.State.Load(t.Context())
	require.NoError(t, err)
	return s
}

func save(t *testing.T, a Account, epoch int64, s reconnect.State) {
	t.Helper()
	require.NoError(t, a.State.Save(t.Context(), epoch, s))
}

// full has a value in every field, also in those that State gets later; times
// have milliseconds, the precision every backend must keep.
func full() reconnect.State {
	var s reconnect.State
	v := reflect.ValueOf(&s).Elem()
	at := func(i int) time.Time {
		return time.Date(2026, 3, 1, 12, i, 0, 123e6, time.UTC)
	}
	for i := range v.NumField() {
		f := v.Field(i)
		switch f.Interface().(type) {
		case time.Time:
			f.Set(reflect.ValueOf(at(i)))
		case []time.Time:
			f.Set(reflect.ValueOf([]time.Time{at(i), at(i + 1), at(i + 1)}))
		case []reconnect.Yield:
			f.Set(reflect.ValueOf([]reconnect.Yield{
				{By: "a", To: "b", At: at(i), Reason: reconnect.ReasonTimedOut, Count: 2},
				{By: "b", At: at(i + 1), Reason: reconnect.ReasonServiceUnavailable, Code: 403, Detail: "é", Count: 1, Stopped: true},
			}))
		case map[string]json.RawMessage:
			f.Set(reflect.ValueOf(map[string]json.RawMessage{"aFieldOfTheFuture": json.RawMessage(`{"a":[1,"é"]}`)}))
		default:
			switch f.Kind() {
			case reflect.Int, reflect.Int64:
				f.SetInt(1<<30 + int64(i))
			case reflect.String:
				f.SetString(fmt.Sprint("text é ", i))
			case reflect.Bool:
				f.SetBool(true)
			}
		}
	}
	s.Version = reconnect.StateVersion
	return s
}

// requireEqual compares with the precision of a millisecond.
func requireEqual(t *testing.T, want, got reconnect.State) {
	t.Helper()
	require.Equal(t, rounded(want), rounded(got))
}

func rounded(s reconnect.State) reconnect.State {
	ms := func(t time.Time) time.Time { return t.Round(0).Truncate(time.Millisecond).UTC() }
	v := reflect.ValueOf(&s).Elem()
	for i := range v.NumField() {
		switch x := v.Field(i).Interface().(type) {
		case time.Time:
			v.Field(i).Set(reflect.ValueOf(ms(x)))
		case []time.Time:
			x = slices.Clone(x)
			for i := range x {
				x[i] = ms(x[i])
			}
			v.Field(i).Set(reflect.ValueOf(x))
		case []reconnect.Yield:
			x = slices.Clone(x)
			for i := range x {
				x[i].At = ms(x[i].At)
			}
			v.Field(i).Set(reflect.ValueOf(x))
		}
	}
	return s
}

func testZero(t *testing.T, a Account) {
	hold(t, a)
	require.Zero(t, load(t, a))
}

func testFields(t *testing.T, a Account) {
	epoch := hold(t, a)
	want := full()
	v := reflect.ValueOf(want)
	for i := range v.NumField() {
		require.False(t, v.Field(i).IsZero(), "the suite must fill the field %s", v.Type().Field(i).Name)
	}
	save(t, a, epoch, want)
	requireEqual(t, want, load(t, a))
	now := time.Now() // has a monotonic reading and a zone
	want.ConnectedAt, want.NextRetryAt = now, now.In(time.FixedZone("", -5*3600))
	save(t, a, epoch, want)
	requireEqual(t, want, load(t, a))
}

func testReplace(t *testing.T, a Account) {
	epoch := hold(t, a)
	save(t, a, epoch, full())
	want := reconnect.State{Version: reconnect.StateVersion, Status: reconnect.StatusConnected}
	save(t, a, epoch, want)
	requireEqual(t, want, load(t, a))
	save(t, a, epoch, reconnect.State{Status: reconnect.StatusNeedsPairing})
	want = load(t, a)
	require.Equal(t, reconnect.StateVersion, want.Version, "a saved state has a version")
	require.Equal(t, reconnect.StatusNeedsPairing, want.Status)
}

func testFenced(t *testing.T, a Account) {
	old := hold(t, a)
	want := full()
	save(t, a, old, want)
	epoch := hold(t, a) // the same holder, a new term
	require.Greater(t, epoch, old)
	for _, e := range []int64{old, 0, -1, epoch + 1} {
		require.ErrorIs(t, a.State.Save(t.Context(), e, reconnect.State{Status: reconnect.StatusConnected}), reconnect.ErrFenced)
		requireEqual(t, want, load(t, a))
	}
	want.RetryCount = 3
	save(t, a, epoch, want)
	requireEqual(t, want, load(t, a))
}

func testNoTerm(t *testing.T, a Account) {
	for _, e := range []int64{0, 1} {
		require.ErrorIs(t, a.State.Save(t.Context(), e, full()), reconnect.ErrFenced)
	}
	hold(t, a)
	require.Zero(t, load(t, a))
}

func testNewer(t *testing.T, a Account) {
	epoch := hold(t, a)
	save(t, a, epoch, full())
	a.PlantNewer(t)
	for range 2 { // the second time shows that the first wrote nothing
		_, err := a.State.Load(t.Context())
		require.ErrorIs(t, err, reconnect.ErrNewerFormat)
		require.ErrorIs(t, a.State.Save(t.Context(), epoch, full()), reconnect.ErrNewerFormat)
	}
}

func testSaveNewer(t *testing.T, a Account) {
	epoch := hold(t, a)
	want := full()
	save(t, a, epoch, want)
	newer := full()
	newer.Version = reconnect.StateVersion + 1
	require.ErrorIs(t, a.State.Save(t.Context(), epoch, newer), reconnect.ErrNewerFormat)
	requireEqual(t, want, load(t, a))
}

func testCancelled(t *testing.T, a Account) {
	epoch := hold(t, a)
	want := full()
	save(t, a, epoch, want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, a.State.Save(ctx, epoch, reconnect.State{}), context.Canceled)
	_, err := a.State.Load(ctx)
	require.ErrorIs(t, err, context.Canceled)
	requireEqual(t, want, load(t, a))
}

func testOwnership(t *testing.T, a Account) {
	epoch := hold(t, a)
	s := full()
	save(t, a, epoch, s)
	s.Attempts[0] = time.Time{}
	got := load(t, a)
	got.Restarts[0] = time.Time{}
	clear(got.Unknown)
	requireEqual(t, full(), load(t, a))
}

func testConcurrent(t *testing.T, a Account) {
	epoch := hold(t, a)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := full()
			s.RetryCount, s.InstanceID, s.Unknown = i+1, fmt.Sprint(i+1), nil
			for range 5 {
				if err := a.State.Save(t.Context(), epoch, s); err != nil {
					t.Error(err)
				}
				got, err := a.State.Load(t.Context())
				if err != nil || fmt.Sprint(got.RetryCount) != got.InstanceID {
					t.Errorf("a mix of two states: %d, %q, %v", got.RetryCount, got.InstanceID, err)
				}
			}
		})
	}
	wg.Wait()
}

func testReopen(t *testing.T, a Account) {
	if a.Reopen == nil {
		t.Skip("nothing of this backend outlives the instance")
	}
	epoch := hold(t, a)
	save(t, a, epoch, full())
	a = a.Reopen(t)
	require.ErrorIs(t, a.State.Save(t.Context(), epoch+1, reconnect.State{}), reconnect.ErrFenced)
	next := hold(t, a)
	require.Greater(t, next, epoch)
	requireEqual(t, full(), load(t, a))
	require.ErrorIs(t, a.State.Save(t.Context(), epoch, reconnect.State{}), reconnect.ErrFenced)
	requireEqual(t, full(), load(t, a))
}
