package sends

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/wastability/wastability/stability/stabilitytest"
)

var start = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

// desk is a Book with a clock.
type desk struct {
	*Book
	now time.Time
	n   int
}

func newDesk(p Policy) *desk {
	d := &desk{Book: New(p), now: start}
	d.Up()
	return d
}

func (d *desk) pass(t time.Duration) { d.now = d.now.Add(t) }

// send sends to a recipient and returns the id.
func (d *desk) send(to string) string {
	d.n++
	id := fmt.Sprintf("id%d", d.n)
	d.Sent(id, to, d.now)
	d.pass(time.Second)
	return id
}

func (d *desk) answer(to string, code int) { d.Answered(d.send(to), code, d.now) }

// silence lets the time for an answer pass on a link that is alive.
func (d *desk) silence() {
	d.pass(2 * time.Minute)
	d.Expire(d.now, d.now)
}

func (d *desk) isMute() bool { return !d.View(d.now).MuteSince.IsZero() }

func TestFiveFailuresToThreeRecipientsAreMute(t *testing.T) {
	for _, code := range []int{400, 429, 463, 479, 500, 0} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			d := newDesk(Policy{})
			fail := func(to string) {
				if code == 0 {
					d.send(to)
					d.silence()
				} else {
					d.answer(to, code)
				}
			}
			for _, to := range []string{"a", "b", "c", "a"} {
				fail(to)
				require.False(t, d.isMute())
			}
			fail("b")
			require.True(t, d.isMute())
			v := d.View(d.now)
			require.Equal(t, start, v.MuteSince, "since the first of them was sent")
			require.Equal(t, code, v.RowCode)
			require.Equal(t, 5, v.InARow)
			d.answer("c", 0)
			require.False(t, d.isMute())
			require.Zero(t, d.View(d.now).InARow)
		})
	}
}

func TestOneRecipientWhoIsRefusedIsNotMute(t *testing.T) {
	d := newDesk(Policy{})
	for range 50 {
		d.answer("a", 479)
		d.answer("b", 479)
	}
	require.False(t, d.isMute())
	d.answer("c", 479)
	require.True(t, d.isMute())
}

func TestNewChatsRefusedWhileOthersWorkIsNotMute(t *testing.T) {
	d := newDesk(Policy{})
	d.answer("old", 0)
	for i := range 30 {
		d.answer(fmt.Sprint("new", i), NewChats)
	}
	require.False(t, d.isMute())
	require.Equal(t, d.now, d.View(d.now).NewChatsRefusedAt, "but it is shown")
	d.answer("old", NewChats)
	require.True(t, d.isMute(), "an existing chat is refused too")
	require.Zero(t, d.View(d.now).NewChatsRefusedAt)
	d.answer("old", 0)
	require.False(t, d.isMute())
}

func TestNewChatsRefusedIsMuteWhenNothingElseWorks(t *testing.T) {
	d := newDesk(Policy{})
	for i := range 5 {
		d.answer(fmt.Sprint("new", i), NewChats)
	}
	require.True(t, d.isMute(), "nothing was ever acknowledged")
	d.answer("old", 0)
	for i := range 5 {
		d.answer(fmt.Sprint("new", i), NewChats)
	}
	require.False(t, d.isMute())
	d.pass(time.Hour)
	require.True(t, d.isMute(), "nothing was acknowledged for an hour")
	other := newDesk(Policy{})
	other.answer("old", 0)
	for _, code := range []int{NewChats, NewChats, NewChats, 400, NewChats} {
		other.answer(fmt.Sprint("new", other.n), code)
	}
	require.True(t, other.isMute(), "not only new chats are refused")
}

func TestADeadLinkIsNotMute(t *testing.T) {
	d := newDesk(Policy{})
	for _, to := range []string{"a", "b", "c", "d", "e", "f"} {
		d.send(to)
	}
	heard := start.Add(29 * time.Second)
	d.pass(time.Minute)
	d.Expire(d.now, heard)
	v := d.View(d.now)
	require.EqualValues(t, 6, v.Unanswered)
	require.Zero(t, v.InARow)
}

func TestSendsOfAConnectionThatEndedAreNotMute(t *testing.T) {
	d := newDesk(Policy{})
	for _, to := range []string{"a", "b", "c", "d", "e", "f"} {
		d.send(to)
	}
	d.Down(d.now)
	require.EqualValues(t, 6, d.View(d.now).Unanswered)
	for _, to := range []string{"a", "b", "c", "d", "e", "f"} {
		d.send(to) // into the void
	}
	d.Up()
	d.silence()
	v := d.View(d.now)
	require.EqualValues(t, 12, v.Unanswered)
	require.Zero(t, v.InARow)
	require.False(t, d.isMute())
}

func TestMuteOutlivesAReconnect(t *testing.T) {
	d := newDesk(Policy{})
	for _, to := range []string{"a", "b", "c", "a"} {
		d.answer(to, 400)
	}
	d.Down(d.now)
	d.Up()
	d.answer("b", 400)
	require.True(t, d.isMute())
	d.Down(d.now)
	d.Up()
	require.True(t, d.isMute())
}

func TestALateAnswerCountsInPlaceOfNone(t *testing.T) {
	for _, code := range []int{0, 500} {
		d := newDesk(Policy{})
		id := d.send("a")
		d.Down(d.now)
		require.EqualValues(t, 1, d.View(d.now).Unanswered)
		require.True(t, d.Answered(id, code, d.now))
		require.False(t, d.Answered(id, code, d.now), "once")
		v := d.View(d.now)
		require.Zero(t, v.Unanswered)
		if code == 0 {
			require.EqualValues(t, 1, v.Acknowledged)
		} else {
			require.Equal(t, []Refusal{{500, 1, d.now}}, v.Refused)
		}
	}
	d := newDesk(Policy{})
	id := d.send("a")
	d.Down(d.now)
	d.pass(remembered)
	d.Expire(d.now, d.now)
	require.False(t, d.Answered(id, 0, d.now), "forgotten")
	require.EqualValues(t, 1, d.View(d.now).Unanswered)
}

func TestTheSameIDAgainIsTheSameMessage(t *testing.T) {
	d := newDesk(Policy{})
	d.Sent("x", "a", d.now)
	d.pass(50 * time.Second)
	d.Sent("x", "a", d.now)
	d.pass(20 * time.Second)
	require.Equal(t, start.Add(110*time.Second), d.Expire(d.now, d.now), "the newer sending is waited for")
	require.Equal(t, 1, d.View(d.now).Waiting)
	d.Down(d.now)
	d.Sent("x", "a", d.now)
	d.Answered("x", 0, d.now)
	v := d.View(d.now)
	require.EqualValues(t, 1, v.Acknowledged)
	require.EqualValues(t, 1, v.Unanswered, "the first attempt ended without an answer")
}

func TestUnknownAnswersCountNothing(t *testing.T) {
	d := newDesk(Policy{})
	require.False(t, d.Answered("never sent", 463, d.now))
	require.Equal(t, View{}.Acknowledged, d.View(d.now).Acknowledged)
	require.Empty(t, d.View(d.now).Refused)
}

func TestHugeTrafficIsBounded(t *testing.T) {
	d := newDesk(Policy{})
	n := stabilitytest.Pick(25_000, 1_000_000)
	for i := range n {
		d.Sent(fmt.Sprint(i), fmt.Sprint(i), d.now)
	}
	require.Len(t, d.byID, 10_000)
	v := d.View(d.now)
	require.Equal(t, 10_000, v.Waiting)
	require.EqualValues(t, n-10_000, v.Unanswered, "who was crowded out is not forgotten in the counts")
	require.Zero(t, v.InARow, "and proves nothing")
	for i := range n {
		d.Answered(fmt.Sprint(i), 1+i%100, d.now)
	}
	require.Empty(t, d.byID)
	require.LessOrEqual(t, len(d.tally.refused), maxCodes+1)
	d = newDesk(Policy{})
	for i := range 5000 {
		d.answer(fmt.Sprint(i), 0)
	}
	require.Len(t, d.known, maxKnown)
}

// Each send is at every moment in exactly one place.
func TestEverySendIsCountedOnce(t *testing.T) {
	for seed := range uint64(stabilitytest.Pick(50, 5000)) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		d := newDesk(Policy{Max: 1 + rnd.IntN(20)})
		sent := uint64(0)
		for range 300 {
			switch rnd.IntN(8) {
			case 0, 1, 2:
				d.send(fmt.Sprint(rnd.IntN(5)))
				sent++
			case 3, 4, 5:
				d.Answered(fmt.Sprintf("id%d", 1+rnd.IntN(d.n+1)), rnd.IntN(3)*200, d.now)
			case 6:
				d.pass(time.Duration(rnd.IntN(90)) * time.Second)
				d.Expire(d.now, d.now)
			default:
				d.Down(d.now)
				d.Up()
			}
			v := d.View(d.now)
			all := v.Acknowledged + v.Unanswered + uint64(v.Waiting)
			for _, r := range v.Refused {
				all += r.Count
			}
			require.Equal(t, sent, all, "seed %d", seed)
			require.Equal(t, len(d.byID), d.wait.n+d.late.n)
			require.LessOrEqual(t, len(d.byID), d.p.Max)
		}
	}
}

func TestASendAndItsAnswerCostTwoAllocations(t *testing.T) {
	b := New(Policy{})
	b.Up()
	b.Sent("warm", "123@s.whatsapp.net", start)
	b.Answered("warm", 0, start)
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() {
		b.Sent("3EB0ABCDEF", "123@s.whatsapp.net", start)
		b.Answered("3EB0ABCDEF", 0, start)
	}), 2.0)
}
