package stability_test

import (
	"context"
	"encoding/json"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types/events"
	waLog "go.mau.fi/whatsmeow/util/log"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/guard"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/reconnect"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// uncut is a fence that nothing cuts.
type uncut struct{ lock.Term }

func (uncut) Cut(error) {}

// edit changes the entries of the book of messages while no instance holds the lock.
func (w *world) edit(f func(entry map[string]any)) {
	w.t.Helper()
	ctx, back := context.Background(), w.memory.Backend()
	l, err := lock.New(back.Lock, "editor")
	require.NoError(w.t, err)
	term, ok, err := l.TryAcquire(ctx)
	require.NoError(w.t, err)
	require.True(w.t, ok)
	c := authstore.New(back.Auth)
	_, err = c.Device(ctx, uncut{term})
	require.NoError(w.t, err)
	rows, err := c.MessageEntries(ctx)
	require.NoError(w.t, err)
	n := 0
	for id, raw := range rows {
		var entry map[string]any
		require.NoError(w.t, json.Unmarshal(raw, &entry))
		if _, ok := entry["Last"]; !ok {
			continue // not about a message
		}
		n++
		f(entry)
		raw, err = json.Marshal(entry)
		require.NoError(w.t, err)
		require.NoError(w.t, c.PutMessageEntry(ctx, id, raw, true))
	}
	require.Positive(w.t, n)
	require.NoError(w.t, c.Close(ctx))
	require.NoError(w.t, l.Close(ctx))
}

// The clock of the machine that had the lock was ahead.
func TestMessageOfTheFutureWaitsForNoTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		a.refuse = func(e *events.Message) bool {
			if e.Message.GetConversation() == "kept" {
				panic("down")
			}
			return false
		}
		a.run().pair()
		w.getMessage("kept")
		time.Sleep(10 * time.Second)
		a.stop()
		w.edit(func(entry map[string]any) {
			for _, f := range []string{"First", "Since", "Last"} {
				at, err := time.Parse(time.RFC3339Nano, entry[f].(string))
				require.NoError(t, err)
				entry[f] = at.Add(100 * time.Hour).Format(time.RFC3339Nano)
			}
		})
		b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		m := b.m.Messages()
		require.Len(t, m, 1)
		for _, at := range []time.Time{m[0].ReceivedAt, m[0].Since, m[0].LastTry} {
			require.False(t, at.After(time.Now()))
		}
		time.Sleep(2 * time.Minute)
		require.Equal(t, []string{"kept"}, b.texts())
		b.stop()
	})
}

// A new holder knows of no message before it has read the book, and then of all.
func TestNewHolderThatHasReadNothingResolvesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		a.refuse = func(e *events.Message) bool { panic("down") }
		a.run().pair()
		w.getMessage("kept")
		time.Sleep(10 * time.Second)
		a.stop()
		w.edit(func(entry map[string]any) { entry["State"] = string(stability.MessageSetAside) })

		for i, want := range []guard.Change{opened, "", resolved} {
			n := w.tended(string(rune('b'+i)), stability.WithAutoHeal(noHeal))
			n.wire.slow(50 * time.Millisecond)
			n.run().ready()
			time.Sleep(time.Hour)
			if want == resolved {
				require.Empty(t, n.book.of("wa_messages_set_aside_active"), "nothing has changed")
				require.NoError(t, n.m.PurgeMessage(t.Context(), n.m.Messages()[0].Entry))
				time.Sleep(time.Minute)
			}
			var got []guard.Change
			if want != "" {
				got = []guard.Change{want}
			}
			require.Equal(t, got, n.book.of("wa_messages_set_aside_active"), "holder %d", i)
			n.stop()
		}
	})
}

// The book is the account's: it is written while nobody is paired, too.
func TestMessageIsRemovedForGoodWhileNobodyIsPaired(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		var down atomic.Bool
		down.Store(true)
		a.refuse = func(e *events.Message) bool {
			if down.Load() && e.Message.GetConversation() != "" {
				panic("down")
			}
			return false
		}
		a.run().pair()
		w.getMessage("one")
		w.getMessage("two")
		time.Sleep(10 * time.Second)
		require.Len(t, a.m.Messages(), 2)
		w.account.Phone().RemoveDevice(w.device())
		w.await("nobody is paired", func() bool { return a.status().WA == reconnect.StatusNeedsPairing })
		list := a.m.Messages()
		require.Len(t, list, 2)

		a.wire.fail(func(call string) bool { return call == "commit" })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		require.Error(t, a.m.PurgeMessage(ctx, list[0].Entry))
		cancel()
		require.Len(t, a.m.Messages(), 2, "it is not gone before the store says so")
		a.wire.heal()
		time.Sleep(time.Minute)
		require.NoError(t, a.m.PurgeMessage(t.Context(), list[0].Entry))
		require.Len(t, a.m.Messages(), 1)
		a.stop()
		b := w.tended("b", stability.WithAutoHeal(noHeal)).run()
		w.await("the book is read", func() bool { return len(b.m.Messages()) > 0 })
		require.Len(t, b.m.Messages(), 1)
		require.Equal(t, list[1].ID, b.m.Messages()[0].ID)
		b.stop()
	})
}

// Its sender has sent again what could not be read, a handler has taken it, and the
// process is killed before the note of it is in the store.
func TestKillBehindAResendAsksThePhoneForNothing(t *testing.T) {
	t.Parallel()
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal)).run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		carol := w.writer()
		id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		time.Sleep(time.Hour)
		require.Len(t, a.m.Messages(), 1)
		require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
		w.await("it is acknowledged", func() bool { return len(a.written()) == 1 && len(w.device().Pending()) == 0 })
		a.crash()
		time.AfterFunc(10*time.Minute, a.kill) // it would ask for the lock all day
		b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
		w.account.Phone().On()
		time.Sleep(24 * time.Hour)
		require.Empty(t, b.written())
		require.Empty(t, b.m.Messages())
		b.stop()
	})
}

// The store is slow, and the message is due.
func TestMessageThatIsBeingRemovedIsNotHandedOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.tended("a", stability.WithAutoHeal(noHeal))
		var down atomic.Bool
		down.Store(true)
		a.refuse = func(*events.Message) bool {
			if down.Load() {
				panic("down")
			}
			return false
		}
		a.run().pair()
		w.getMessage("kept")
		time.Sleep(177 * time.Second) // it is tried after a minute, and two minutes later
		down.Store(false)
		a.wire.slow(8 * time.Second)
		require.NoError(t, a.m.PurgeMessage(t.Context(), a.m.Messages()[0].Entry))
		a.wire.slow(0)
		time.Sleep(time.Hour)
		require.Empty(t, a.texts())
		require.Empty(t, a.m.Messages())
		a.balanced()
		a.stop()
	})
}

// A handler has a message when the lock is lost, and does not take it. The next holder
// is given the message, and then the first one is the holder again.
func TestMessageThatAFormerTermDidNotTakeIsTheNextHolders(t *testing.T) {
	for name, end := range map[string]func() bool{"refused": func() bool { return true }, "panicked": func() bool { panic("too late") }} {
		for _, when := range []string{"in standby", "as the holder"} {
			t.Run(name+" "+when, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t)
					a := w.named("a", stability.WithAutoHeal(noHeal))
					over := make(chan struct{})
					var with atomic.Int32
					a.refuse = func(e *events.Message) bool {
						if e.Message.GetConversation() == "" || with.Add(1) > 1 {
							return false
						}
						<-over
						return end()
					}
					a.run().pair()
					b := w.named("b", stability.WithAutoHeal(noHeal)).run()
					_, err := w.writer().Send(w.account.JID(), "mine?")
					require.NoError(t, err)
					w.await("it is with a handler", func() bool { return with.Load() == 1 })
					a.wire.hang(anyCall)
					w.await("the next holder has handled it", func() bool { return len(b.written()) == 1 })
					a.wire.heal()
					time.Sleep(time.Minute)
					nothing := func() {
						time.Sleep(time.Minute)
						require.Empty(t, a.m.Messages(), when)
						r := a.balanced()
						require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", r)
					}
					if when == "in standby" {
						close(over)
						nothing()
					}
					b.stop()
					a.ready()
					if when == "as the holder" {
						time.Sleep(time.Minute)
						close(over)
						nothing()
					}
					time.Sleep(2 * time.Hour)
					require.EqualValues(t, 1, with.Load(), "it was handled by the other one")
					require.Empty(t, a.m.Messages())
					require.Empty(t, w.device().Pending())
					a.balanced()
					a.stop()
				})
			})
		}
	}
}

// A handler outlives its term. The next term of the same process is brought the message
// again, and then the network goes before the handler returns without having taken it.
func TestMessageThatAFormerTermDidNotTakeIsAtTheServiceWhileTheLinkIsDown(t *testing.T) {
	for name, end := range map[string]func() bool{"refused": func() bool { return true }, "panicked": func() bool { panic("too late") }} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.named("a", stability.WithAutoHeal(noHeal))
				over := make(chan struct{})
				var with atomic.Int32
				a.refuse = func(e *events.Message) bool {
					if e.Message.GetConversation() == "" || with.Add(1) > 1 {
						return false
					}
					<-over
					return end()
				}
				a.run().pair()
				_, err := w.writer().Send(w.account.JID(), "mine?")
				require.NoError(t, err)
				w.await("it is with a handler", func() bool { return with.Load() == 1 })
				a.wire.fail(anyCall)
				w.await("the term is over", func() bool { return a.status().Mode == stability.ModePassive })
				a.wire.heal()
				a.ready()
				time.Sleep(30 * time.Second)
				w.sim.Fault(wasim.FIN()).For(w.account.JID()).Now()
				w.sim.Fault(wasim.DialHang()).From("a").Always().Now()
				time.Sleep(30 * time.Second)
				close(over)
				for range 60 {
					time.Sleep(time.Second)
					r := a.balanced()
					require.Equal(t, 1, r.By[stability.MessageAtService].Count, "%+v", r)
				}
				w.sim.Heal()
				w.await("it is handled", func() bool { return with.Load() == 2 })
				time.Sleep(time.Hour)
				require.EqualValues(t, 2, with.Load())
				require.Empty(t, w.device().Pending())
				r := a.balanced()
				require.Zero(t, r.Waiting.Count+r.SetAside.Count, "%+v", r)
				a.stop()
			})
		})
	}
}

// The same, and the client's logger shows nothing of what is received.
func TestMessageThatAFormerTermDidNotTakeIsSeenWithoutTheTap(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.named("a", stability.WithAutoHeal(noHeal), stability.WithNewClient(func(d *store.Device, _ waLog.Logger) *whatsmeow.Client {
			return whatsmeow.NewClient(d, nil)
		}))
		over := make(chan struct{})
		var with atomic.Int32
		a.refuse = func(e *events.Message) bool {
			if e.Message.GetConversation() == "" || with.Add(1) > 1 {
				return false
			}
			<-over
			return true
		}
		a.run().pair()
		_, err := w.writer().Send(w.account.JID(), "mine?")
		require.NoError(t, err)
		w.await("it is with a handler", func() bool { return with.Load() == 1 })
		a.wire.fail(anyCall)
		w.await("the term is over", func() bool { return a.status().Mode == stability.ModePassive })
		a.wire.heal()
		a.ready()
		time.Sleep(30 * time.Second)
		close(over)
		time.Sleep(time.Second)
		r := a.status().Messages.Received
		require.Equal(t, 1, r.Waiting.Count, "%+v", r)
		time.Sleep(time.Hour)
		require.EqualValues(t, 2, with.Load(), "it comes again by itself")
		require.Empty(t, w.device().Pending())
		require.Zero(t, a.status().Messages.Received.Waiting.Count)
		a.stop()
	})
}
