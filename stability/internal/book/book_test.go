package book_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/wastability/wastability/stability/internal/book"
)

var (
	start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	k1    = book.Key{ID: "A", Chat: "1@s.whatsapp.net"}
	k2    = book.Key{ID: "B", Chat: "g@g.us", Sender: "2@lid"}
	k3    = book.Key{ID: "C", Chat: "1@s.whatsapp.net"}
)

func count(b *book.Book, s book.State) int { return b.Sums().States[s].Count }

func TestMessageIsInOneOfThreePlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b book.Book
		now := start
		keys := make([]book.Key, 6)
		for i := range keys {
			keys[i] = book.Key{ID: fmt.Sprint(i), Chat: "c"}
		}
		inHand := make(map[book.Key]bool)
		handled := uint64(0)
		states := []book.Outcome{book.Left, book.Handled, book.Repeat, book.Declined, book.Saved, book.Lost, book.Odd, book.Poison}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 3600).Draw(t, "seconds")) * time.Second)
			k := rapid.SampledFrom(keys).Draw(t, "message")
			switch rapid.IntRange(0, 9).Draw(t, "what") {
			case 0, 1:
				b.Arrived(k, now)
			case 2, 3:
				if !inHand[k] {
					b.Begun(k, now)
					inHand[k] = true
				}
			case 4, 5, 6:
				if inHand[k] {
					o := rapid.SampledFrom(states).Draw(t, "outcome")
					before := b.Sums()
					_, _, _ = b.Ended(k, o, "why", now)
					delete(inHand, k)
					if o == book.Handled && b.Sums().Handled != before.Handled {
						handled++
					}
				}
			case 7:
				b.HungUp()
				require.Zero(t, count(&b, book.Queued))
			case 8:
				b.Again(k, true, now)
			case 9:
				if !inHand[k] {
					b.Remove(k)
				}
			}
			s := b.Sums()
			places := s.Handled
			for _, g := range s.States {
				places += uint64(g.Count)
			}
			require.Equal(t, s.Received, places, "%+v", s)
			require.LessOrEqual(t, handled, s.Handled)
		}
		b.Leave()
		require.Equal(t, b.Sums().Received, b.Sums().Handled+uint64(len(inHand)), "what waits is the next holder's")
	})
}

func TestRefusedMessageWaitsForAQuietMinute(t *testing.T) {
	var b book.Book
	require.Zero(t, b.Redelivery(start, start))
	b.Arrived(k1, start)
	b.Begun(k1, start)
	b.Ended(k1, book.Declined, "no", start)
	require.Equal(t, start.Add(time.Minute), b.Redelivery(start.Add(-time.Hour), time.Time{}))
	busy := start.Add(50 * time.Second)
	b.Arrived(k2, busy)
	require.Equal(t, busy.Add(time.Minute), b.Redelivery(start.Add(-time.Hour), time.Time{}), "something came")
	require.Equal(t, busy.Add(65*time.Second), b.Redelivery(start, busy.Add(5*time.Second)), "something was sent")
	b.Arrived(k2, start.Add(20*time.Minute))
	require.Equal(t, start.Add(15*time.Minute), b.Redelivery(start.Add(-time.Hour), time.Time{}), "however busy it is")
	late := start.Add(15*time.Minute + 10*time.Second)
	require.Equal(t, late.Add(time.Second), b.Redelivery(start.Add(-time.Hour), late), "a handler is at work")
	require.Equal(t, start.Add(16*time.Minute), b.Redelivery(start.Add(-time.Hour), start.Add(17*time.Minute)), "for a minute at most")
}

func TestOnlyWhatIsRefusedAmongOthersIsPoisonous(t *testing.T) {
	for name, others := range map[string]bool{"others are handled": true, "nothing is handled": false} {
		t.Run(name, func(t *testing.T) {
			var b book.Book
			now := start
			for range 200 {
				b.Arrived(k1, now)
				b.Begun(k1, now)
				if b.Poisonous(k1, now) {
					break
				}
				b.Ended(k1, book.Declined, "no", now)
				now = now.Add(30 * time.Minute)
				if others {
					b.Arrived(k2, now)
					b.Begun(k2, now)
					b.Ended(k2, book.Handled, "", now)
				}
			}
			require.Equal(t, others, b.Poisonous(k1, now))
			if others {
				require.Equal(t, start.Add(24*time.Hour), now)
			}
		})
	}
}

func TestNameMisreadOnArrivalIsNoSecondMessage(t *testing.T) {
	var b book.Book
	b.Arrived(book.Key{ID: "A", Chat: "g@g.us", Sender: "forged@lid"}, start)
	b.Arrived(k2, start)
	b.Begun(book.Key{ID: "A", Chat: "g@g.us", Sender: "3@lid"}, start)
	require.EqualValues(t, 2, b.Sums().Received)
	require.Equal(t, 1, count(&b, book.Queued))
	b.Begun(k2, start)
	require.Equal(t, 2, count(&b, book.InHand))
	require.EqualValues(t, 2, b.Sums().Received)
}

// More messages wait than the order of arrival is remembered of.
func TestMessageThatBeginsLateTakesNoOtherOut(t *testing.T) {
	var b book.Book
	const n = 10_050
	for i := range n {
		b.Arrived(book.Key{ID: fmt.Sprint(i)}, start)
	}
	for i := range 100 {
		b.Begun(book.Key{ID: fmt.Sprint(i)}, start)
	}
	require.EqualValues(t, n, b.Sums().Received)
	require.Equal(t, n-100, count(&b, book.Queued))
}

func TestMessageByAnotherNameOfItsSenderIsOne(t *testing.T) {
	var b book.Book
	b.Begun(k1, start)
	b.Ended(k1, book.Declined, "no", start)
	b.Arrived(k2, start)
	b.Is(k2, k1, start)
	require.EqualValues(t, 1, b.Sums().Received)
	b.Arrived(book.Key{ID: "C"}, start)
	b.Begun(k1, start)
	require.Equal(t, 1, count(&b, book.InHand))
	require.Equal(t, 1, count(&b, book.Queued), "it stood before the next one")
	_, _, removed := b.Ended(k1, book.Handled, "", start)
	require.True(t, removed)
	require.EqualValues(t, 2, b.Sums().Received)
}

func TestKeptMessageThatIsTriedTakesNoneFromTheQueue(t *testing.T) {
	var b book.Book
	b.Begun(k1, start)
	b.Ended(k1, book.Saved, "a panic", start)
	b.Arrived(k2, start)
	b.Arrived(book.Key{ID: "C"}, start)
	b.Tried(k1, start)
	require.Equal(t, 1, count(&b, book.InHand))
	require.Equal(t, 2, count(&b, book.Queued))
	require.EqualValues(t, 3, b.Sums().Received)
	b.HungUp()
	require.Equal(t, 2, count(&b, book.AtService))
}

func TestEntriesOfTheStoreComeBackAsTheyWere(t *testing.T) {
	var b, next book.Book
	b.Begun(k1, start)
	b.Ended(k1, book.Saved, "a panic", start)
	b.Begun(k2, start)
	b.Ended(k2, book.Lost, "no session", start.Add(time.Second))
	b.Arrived(book.Key{ID: "C"}, start)
	list := b.Entries()
	require.Len(t, list, 2, "what is queued is the service's")
	next.Load(list)
	next.Load(list)
	require.Equal(t, list, next.Entries())
	require.EqualValues(t, 2, next.Sums().Received)

	due, again := next.Due(start)
	require.Empty(t, due)
	require.Equal(t, start.Add(time.Minute), again)
	due, _ = next.Due(start.Add(time.Minute))
	require.Len(t, due, 1)
	asks, again := next.Asks(start.Add(time.Second))
	require.Empty(t, asks)
	require.Equal(t, start.Add(time.Second+5*time.Minute), again)
	lost, _ := next.Overdue(start.Add(14*24*time.Hour + time.Second))
	require.Len(t, lost, 1)
	require.Equal(t, k2, lost[0].Key)
}

func TestMessageHandledBehindItsOwnSavingIsRemoved(t *testing.T) {
	var b book.Book
	b.Begun(k1, start)
	b.Ended(k1, book.Lost, "no session", start)
	b.Arrived(k1, start) // its sender sends it again
	b.Begun(k1, start)
	_, write, removed := b.Ended(k1, book.Handled, "", start)
	require.True(t, write)
	require.True(t, removed)
	require.Empty(t, b.Entries())
	b.Begun(k1, start)
	b.Aside(k1, "poison", start)
	_, write, _ = b.Ended(k1, book.Repeat, "", start)
	require.False(t, write)
	require.Equal(t, 1, count(&b, book.SetAside), "set aside while it was in hand")
}

func TestRefusedMessageThatTheServiceHasNoMoreIsFound(t *testing.T) {
	var b book.Book
	refuse := func() {
		b.Arrived(k1, start)
		b.Begun(k1, start)
		b.Ended(k1, book.Declined, "no", start)
	}
	refuse()
	require.Empty(t, b.Synced(func(book.Key) bool { return false }))
	require.Empty(t, b.Synced(func(book.Key) bool { return false }))
	refuse() // it did come again
	require.Empty(t, b.Synced(func(book.Key) bool { return false }))
	require.Empty(t, b.Synced(func(book.Key) bool { return false }))
	require.Equal(t, []book.Key{k1}, b.Synced(func(book.Key) bool { return false }))
}

func TestMessageThatTheServiceHasNoMoreIsForgotten(t *testing.T) {
	var b book.Book
	b.Load([]book.Entry{{Key: k1, State: book.LeftAlone, First: start, Since: start}})
	require.True(t, b.Offer(k1, start))
	b.Arrived(k2, start)
	b.HungUp()
	require.Equal(t, 2, count(&b, book.AtService))
	b.Arrived(k2, start) // at the next login
	b.Begun(k2, start)
	b.Ended(k2, book.Left, "", start)
	require.Empty(t, b.Synced(func(book.Key) bool { return false }))
	require.Equal(t, 1, count(&b, book.AtService))
	_, there := b.Find(k2)
	require.True(t, there, "what came on this connection, and was not acknowledged, is still at the service")
	require.EqualValues(t, 1, b.Sums().Received)
	b.HungUp()
	require.Empty(t, b.Synced(func(book.Key) bool { return false }))
	require.Zero(t, b.Sums().Received)
}

func TestDownHostIsTriedWithOneMessageAtATime(t *testing.T) {
	var b book.Book
	now := start
	b.Load([]book.Entry{
		{Key: k1, State: book.Kept, First: now, Last: now.Add(time.Second), Tries: 1},
		{Key: k2, State: book.Kept, First: now.Add(time.Second), Last: now, Tries: 1},
		{Key: k3, State: book.Kept, First: now.Add(time.Second)},
	})
	try := func(o book.Outcome) (tried []book.Key, again time.Duration) {
		due, at := b.Due(now)
		for _, e := range due {
			b.Begun(e.Key, now)
			b.Ended(e.Key, o, "", now)
			tried = append(tried, e.Key)
		}
		if at.IsZero() {
			return tried, 0
		}
		return tried, at.Sub(now)
	}
	now = now.Add(time.Hour)
	tried, _ := try(book.Left)
	require.Equal(t, []book.Key{k2, k3}, tried, "a message that was not tried yet does not wait for the others")
	tried, _ = try(book.Saved)
	require.Equal(t, []book.Key{k2, k3}, tried)
	now = now.Add(time.Second)
	tried, again := try(book.Saved)
	require.Empty(t, tried)
	require.Equal(t, time.Minute-time.Second, again)
	for _, k := range []book.Key{k1, k2, k3, k1} { // each has its turn: it may be one of them alone that fails
		now = now.Add(15 * time.Minute)
		tried, _ = try(book.Saved)
		require.Equal(t, []book.Key{k}, tried)
		tried, _ = try(book.Saved)
		require.Empty(t, tried)
	}
	now = now.Add(15 * time.Minute)
	tried, _ = try(book.Handled)
	require.Len(t, tried, 1)
	tried, _ = try(book.Handled)
	require.Len(t, tried, 2, "the host is back")
}

func TestMessageThatComesOnceMoreTakesNoOthersPlace(t *testing.T) {
	var b book.Book
	b.Begun(k1, start)
	b.Ended(k1, book.Lost, "no session", start)
	b.Arrived(k1, start) // its sender sends it again
	b.Arrived(k2, start)
	b.Begun(k1, start)
	require.Equal(t, 1, count(&b, book.Queued), "the one behind it is still there")
	b.Begun(k2, start)
	require.EqualValues(t, 2, b.Sums().Received)
}

func TestOldestOfTooManyWithoutContentGo(t *testing.T) {
	var b book.Book
	for i := range 5 {
		k := book.Key{ID: fmt.Sprint(i)}
		b.Begun(k, start.Add(time.Duration(i)*time.Second))
		b.Ended(k, book.Odd, "strange", start)
	}
	all := func(book.Key) bool { return true }
	require.Equal(t, []book.Key{{ID: "0"}, {ID: "1"}}, b.Surplus(book.SetAside, 3, all))
	require.Empty(t, b.Surplus(book.SetAside, 5, all))
	require.Empty(t, b.Surplus(book.SetAside, 0, func(book.Key) bool { return false }))
}

func TestTwoContentsUnderOneNameAreTwoMessages(t *testing.T) {
	for _, o := range []book.Outcome{book.Declined, book.Saved, book.Poison} {
		var b book.Book
		b.Arrived(k1, start)
		b.Begun(k1, start)
		b.Ended(k1, o, "", start)
		b.Arrived(k1, start)
		b.Begun(k1, start)
		own := k1
		own.Copy = "1"
		e, ok := b.Split(k1, own, start)
		require.True(t, ok)
		require.Equal(t, own, e.Key)
		require.NotEqual(t, book.Refused, e.State, "the service may not have it any more")
		_, ok = b.Split(k1, own, start)
		require.False(t, ok, "it has begun anew")
		b.Ended(k1, book.Handled, "", start)
		sums := b.Sums()
		require.EqualValues(t, 2, sums.Received)
		require.EqualValues(t, 1, sums.Handled)
		require.Len(t, b.Entries(), 1)
	}
}

// Whatsmeow gives no handler a message that comes again as an old counter.
func TestMessageOfNoUseChangesNothingThatWaits(t *testing.T) {
	for was, o := range map[book.State]book.Outcome{book.Undecrypted: book.Lost, book.Kept: book.Saved, book.SetAside: book.Poison} {
		t.Run(string(was), func(t *testing.T) {
			var b book.Book
			b.Begun(k1, start)
			b.Ended(k1, o, "the reason", start)
			b.Hide(k1, true)
			before, _ := b.Find(k1)
			b.Arrived(k1, start.Add(time.Hour))
			b.Begun(k1, start.Add(time.Hour))
			_, write, removed := b.Ended(k1, book.Odd, "an old counter", start.Add(time.Hour))
			require.False(t, write || removed)
			after, _ := b.Find(k1)
			require.Equal(t, was, after.State)
			require.Equal(t, before.Why, after.Why)
			require.True(t, after.Hidden)
			require.Equal(t, before.Last, after.Last, "the phone is asked when it would have been")
		})
	}
	var b book.Book
	b.Begun(k1, start)
	e, write, _ := b.Ended(k1, book.Odd, "an old counter", start)
	require.True(t, write)
	require.Equal(t, book.SetAside, e.State, "nothing was known of it")
}
