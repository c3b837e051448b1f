package book_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/internal/book"
)

// A message that was set aside for weeks is handed over again. Its row of tries begins
// anew, and when it was received stays known.
func TestMessageThatIsAskedForStaysAsOldAsItIs(t *testing.T) {
	var b book.Book
	b.Load([]book.Entry{{Key: k1, State: book.SetAside, First: start, Since: start, Last: start, Tries: 20, Worse: 20}})
	now := start.Add(30 * 24 * time.Hour)
	e, ok := b.Again(k1, true, now)
	require.True(t, ok)
	require.Equal(t, start, e.First)
	require.Equal(t, now, e.Row())
	require.Equal(t, start, b.Sums().States[book.Kept].Oldest)
	var next book.Book
	next.Load([]book.Entry{e})
	for n := range 25 {
		require.False(t, next.Poisonous(k1, now))
		now = now.Add(time.Hour - time.Minute)
		other := book.Key{ID: fmt.Sprint(n)}
		next.Begun(other, now)
		next.Ended(other, book.Handled, "", now)
		next.Tried(k1, now)
		next.Ended(k1, book.Saved, "why", now)
	}
	require.True(t, next.Poisonous(k1, now))
}

func TestNobodyIsAskedForEverForWhatNobodyMisses(t *testing.T) {
	var b book.Book
	now := start
	b.Begun(k1, now)
	b.Ended(k1, book.Lost, "it is for the phone alone", now)
	b.Hide(k1, true)
	asked := 0
	for range 14 * 24 {
		now = now.Add(time.Hour)
		due, _ := b.Asks(now)
		for _, e := range due {
			b.Asked(e.Key, true, now)
			asked++
		}
	}
	require.Equal(t, 3, asked)
}

// The service takes no request for a day: nobody was asked for anything, and few requests
// are tried.
func TestRequestThatCouldNotBeSentIsNoTry(t *testing.T) {
	var b book.Book
	now := start
	for _, k := range []book.Key{k1, k2, {ID: "C"}} {
		b.Begun(k, now)
		b.Ended(k, book.Lost, "it is for the phone alone", now)
		b.Hide(k, true)
	}
	tries, of := 0, make(map[book.Key]int)
	for now.Before(start.Add(24 * time.Hour)) {
		now = now.Add(time.Minute)
		due, again := b.Asks(now)
		require.True(t, len(due) > 0 || again.After(now))
		if len(due) > 0 { // where it fails the others wait
			at, ok := b.Asked(due[0].Key, false, now)
			require.True(t, ok)
			require.Zero(t, at.Tries)
			tries++
			of[due[0].Key]++
		}
	}
	require.Len(t, of, 3, "one that cannot be sent does not hold up the others")
	require.LessOrEqual(t, tries, 30)
	require.GreaterOrEqual(t, tries, 24)
	asked := 0
	for range 14 * 24 * 60 {
		now = now.Add(time.Minute)
		due, _ := b.Asks(now)
		for _, e := range due {
			b.Asked(e.Key, true, now)
			asked++
		}
	}
	require.Equal(t, 9, asked, "the phone is asked as often as ever")
}

func TestPhoneIsAskedForFiveMessagesInHalfAMinute(t *testing.T) {
	var b book.Book
	now := start
	var asked []time.Time
	tries := make(map[book.Key]int)
	arrived := 0
	for now.Before(start.Add(40 * time.Minute)) {
		for arrived < 200 && start.Add(time.Duration(arrived)*300*time.Millisecond).Before(now) {
			k := book.Key{ID: fmt.Sprint(arrived)}
			b.Begun(k, now)
			b.Ended(k, book.Lost, "no session", now)
			arrived++
		}
		due, again := b.Asks(now)
		for _, e := range due {
			b.Asked(e.Key, true, now)
			asked = append(asked, now)
			tries[e.Key]++
		}
		require.True(t, len(due) > 0 || arrived == 0 || again.After(now), "there is always a time to look again")
		now = now.Add(700 * time.Millisecond) // as passes do under traffic
	}
	for i := range asked[5:] {
		require.GreaterOrEqual(t, asked[i+5].Sub(asked[i]), 30*time.Second)
	}
	require.Len(t, tries, 200, "each was asked for")
}
