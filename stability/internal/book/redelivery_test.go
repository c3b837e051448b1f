package book_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/internal/book"
)

// The store did not answer when it came, and nothing but another login brings it again.
func TestMessageThatIsLeftOnALiveConnectionIsAskedForAgain(t *testing.T) {
	var b book.Book
	b.Arrived(k1, start)
	b.Begun(k1, start)
	b.Ended(k1, book.Left, "", start)
	m := time.Minute
	require.Equal(t, start.Add(15*m), b.Redelivery(start.Add(-time.Hour), time.Time{}))
	require.Equal(t, start.Add(16*m), b.Redelivery(start.Add(-time.Hour), start.Add(time.Hour)), "a handler is at work")
	require.Equal(t, book.Group{Count: 1, Oldest: start}, b.ForRedelivery())
	b.Arrived(k2, start.Add(5*m))
	b.Begun(k2, start.Add(5*m))
	b.Ended(k2, book.Declined, "no", start.Add(5*m))
	require.Equal(t, start.Add(6*m), b.Redelivery(start.Add(-time.Hour), time.Time{}), "another one is refused")
	require.Equal(t, book.Group{Count: 2, Oldest: start}, b.ForRedelivery())
	b.HungUp()
	b.Remove(k2)
	require.Zero(t, b.Redelivery(start.Add(20*m), time.Time{}), "this login may still bring it")
	require.Zero(t, b.ForRedelivery())
}

func TestRedeliveriesThatBringNothingComeMoreAndMoreRarely(t *testing.T) {
	var b book.Book
	refuse := func(at time.Time) {
		b.Arrived(k1, at)
		b.Begun(k1, at)
		b.Ended(k1, book.Declined, "no", at)
	}
	now := start
	refuse(now)
	var pauses []time.Duration
	for range 7 {
		at := b.Redelivery(now, time.Time{})
		pauses = append(pauses, at.Sub(now))
		now = at
		b.Redelivering(now)
		b.HungUp()
		refuse(now)
	}
	m := time.Minute
	require.Equal(t, []time.Duration{m, m, 2 * m, 4 * m, 8 * m, 15 * m, 15 * m}, pauses)
	b.Arrived(k1, now)
	b.Begun(k1, now)
	b.Ended(k1, book.Handled, "", now)
	require.Zero(t, b.Redelivery(now, time.Time{}))
	refuse(now.Add(time.Hour))
	require.Equal(t, now.Add(time.Hour+m), b.Redelivery(now, time.Time{}), "it took one: the row is over")
}

// The row of redeliveries that bring nothing is over with the last refused message.
func TestRedeliveriesBeginAnewBehindASetAsideMessage(t *testing.T) {
	for how, end := range map[string]func(b *book.Book, now time.Time){
		"poisonous": func(b *book.Book, now time.Time) { b.Begun(k1, now); b.Ended(k1, book.Poison, "poison", now) },
		"set aside": func(b *book.Book, now time.Time) { b.Aside(k1, "not delivered", now) },
		"removed":   func(b *book.Book, _ time.Time) { b.Remove(k1) },
	} {
		t.Run(how, func(t *testing.T) {
			var b book.Book
			now := start
			refuse := func(k book.Key) {
				b.Begun(k, now)
				b.Ended(k, book.Declined, "no", now)
			}
			refuse(k1)
			for range 10 {
				now = now.Add(time.Hour)
				b.Redelivering(now)
				b.Begun(k1, now)
				require.Zero(t, b.Redelivery(now, time.Time{}), "it is with the handlers")
				b.Ended(k1, book.Declined, "no", now)
			}
			require.Equal(t, now.Add(15*time.Minute), b.Redelivery(now, time.Time{}))
			end(&b, now)
			require.Zero(t, b.Redelivery(now, time.Time{}))
			now = now.Add(time.Second)
			refuse(k3)
			b.Redelivering(now)
			require.Equal(t, now.Add(time.Minute), b.Redelivery(now, time.Time{}))
		})
	}
}
