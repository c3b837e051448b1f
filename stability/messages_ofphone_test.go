package stability_test

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/stability"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// The phone was asked for a message that could not be read. Its sender has sent
// it again meanwhile, no handler has taken it yet, and the phone answers now.
func TestPhoneThatAnswersWhileTheMessageWaitsChangesNothing(t *testing.T) {
	const quiet, refusing, panicking, hanging = 0, 1, 2, 3
	for name, c := range map[string]struct {
		mood  int32
		state stability.MessageState
		gone  bool // another program has acknowledged it
	}{
		"refused":       {refusing, stability.MessageRefused, false},
		"kept":          {panicking, stability.MessageKept, false},
		"set aside":     {refusing, stability.MessageSetAside, true},
		"with handlers": {hanging, stability.MessageInHand, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				var mood atomic.Int32
				start := func() *instance {
					i := w.instance(stability.WithAutoHeal(noHeal))
					i.refuse = func(e *events.Message) bool {
						if e.Message.GetConversation() == "" {
							return false
						}
						switch mood.Load() {
						case panicking:
							panic("not today")
						case hanging:
							time.Sleep(30 * time.Minute)
						}
						return mood.Load() == refusing
					}
					return i.run()
				}
				a := start().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				w.account.Phone().Late()
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				time.Sleep(2 * time.Hour)
				mood.Store(c.mood)
				require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
				time.Sleep(5 * time.Second)
				if c.gone {
					require.NoError(t, a.m.Client().DangerousInternals().SendNode(t.Context(), waBinary.Node{
						Tag: "receipt", Attrs: waBinary.Attrs{"id": id, "to": types.NewJID("491520000007", types.DefaultUserServer)},
					}))
				}
				time.Sleep(20 * time.Minute)
				before := w.device().Stats().PeerRequests
				require.Equal(t, 1, a.balanced().By[c.state].Count, "%+v", a.m.Messages())
				was := a.m.Messages()

				w.account.Phone().On()
				time.Sleep(5 * time.Second)
				require.Greater(t, w.device().Stats().PeerRequests, before, "it was answered")
				require.Equal(t, 1, a.balanced().By[c.state].Count, "%+v", a.m.Messages())
				require.Len(t, a.m.Messages(), len(was))
				if c.mood == hanging {
					time.Sleep(30 * time.Minute)
				}
				a.stop()

				b := start().ready()
				time.Sleep(10 * time.Second)
				for i, m := range b.m.Messages() {
					require.Equal(t, c.state, m.State)
					require.GreaterOrEqual(t, m.Tries, was[i].Tries, "its row of tries goes on")
				}
				mood.Store(quiet)
				time.Sleep(30 * time.Minute)
				took := append(a.written(), b.written()...)
				if c.gone {
					require.Empty(t, took, "nobody has asked for it")
					require.Equal(t, 1, b.balanced().SetAside.Count)
					require.NoError(t, b.m.Redeliver(t.Context(), b.m.Messages()[0].Entry))
					time.Sleep(time.Minute)
					took = b.written()
				}
				require.Equal(t, []string{"lost?"}, took, "once")
				require.Empty(t, b.m.Messages())
				require.Empty(t, w.device().Pending())
				b.balanced()
				b.stop()
			})
		})
	}
}

// No handler took what the sender sent again, until it was tried once more. The
// phone answers behind that.
func TestPhoneIsNotHeardOfWhatWasRefusedAtFirst(t *testing.T) {
	for name, refuse := range map[string]func() bool{
		"refused":  func() bool { return true },
		"panicked": func() bool { panic("not today") },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal))
				var tries atomic.Int32
				a.refuse = func(e *events.Message) bool {
					return e.Message.GetConversation() != "" && tries.Add(1) < 3 && refuse()
				}
				a.run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				w.account.Phone().Late()
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				time.Sleep(30 * time.Minute)
				require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
				time.Sleep(20 * time.Minute)
				require.Equal(t, []string{"lost?"}, a.written())
				w.account.Phone().On()
				time.Sleep(10 * time.Minute)
				require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
				time.Sleep(10 * time.Minute)
				require.Equal(t, []string{"lost?"}, a.written(), "once")
				require.Empty(t, a.m.Messages())
				a.balanced()
				a.stop()
			})
		})
	}
}

// A handler refuses another message under the id of the one that could not be read.
func TestPhoneIsHeardOfWhatIsNotTheMessageThatWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.instance(stability.WithAutoHeal(noHeal))
		var mended atomic.Bool
		a.refuse = func(e *events.Message) bool { return e.Message.GetConversation() == "another" && !mended.Load() }
		a.run().pair()
		require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
		w.account.Phone().Late()
		carol := w.writer()
		id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
		require.NoError(t, err)
		time.Sleep(2 * time.Hour)
		require.NoError(t, carol.SendAs(id, w.account.JID(), text("another")))
		time.Sleep(5 * time.Second)
		require.Equal(t, 1, a.balanced().By[stability.MessageRefused].Count)
		// The phone knows the first one.
		require.NoError(t, carol.SendAs(id, w.sim.NewAccount("491520000008").JID(), text("lost?")))
		w.account.Phone().On()
		time.Sleep(20 * time.Second)
		require.Equal(t, []string{"lost?"}, a.written(), "though the phone has answered more than once")
		require.Equal(t, 1, a.balanced().By[stability.MessageRefused].Count)
		mended.Store(true)
		time.Sleep(30 * time.Minute)
		require.Equal(t, []string{"lost?", "another"}, a.written())
		require.Empty(t, a.m.Messages())
		require.Empty(t, w.device().Pending())
		a.balanced()
		a.stop()
	})
}

// The program refuses the phone's answer itself, which whatsmeow acknowledges all the same.
func TestPhonesAnswerThatIsRefusedForLongIsHeardOnce(t *testing.T) {
	for name, c := range map[string]struct {
		asked bool // by the program, so the message was not missed here
		all   bool // everything is refused, else the answers alone
	}{"everything is refused": {all: true}, "answers are refused": {}, "the program asked": {asked: true}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal))
				var refuses atomic.Bool
				a.refuse = func(e *events.Message) bool {
					return refuses.Load() && (c.all || e.Message.GetProtocolMessage() != nil)
				}
				a.run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				w.account.Phone().Late()
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				if c.asked {
					time.Sleep(time.Second)
					require.NoError(t, a.m.PurgeMessage(t.Context(), a.m.Messages()[0].Entry))
					jid := types.NewJID("491520000007", types.DefaultUserServer)
					own := a.m.Client().Store.GetJID().ToNonAD()
					ask := a.m.Client().BuildUnavailableMessageRequest(jid, jid, types.MessageID(id))
					_, err := a.m.Client().SendMessage(t.Context(), own, ask, whatsmeow.SendRequestExtra{Peer: true})
					require.NoError(t, err)
				} else {
					time.Sleep(6 * time.Minute)
				}
				refuses.Store(true)
				w.account.Phone().On()
				time.Sleep(3 * time.Hour)
				require.Zero(t, a.balanced().SetAside.Count, "%+v", a.m.Messages())
				refuses.Store(false)
				time.Sleep(time.Hour)
				require.Equal(t, []string{"lost?"}, a.written(), "once")
				require.Empty(t, a.m.Messages(), "the answer itself was handed over again from here")
				require.Empty(t, w.device().Pending())
				a.balanced()
				a.stop()
				b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
				time.Sleep(30 * time.Minute)
				require.Zero(t, b.balanced().PerhapsHandled.Count)
				b.stop()
			})
		})
	}
}

// noted counts the messages in the store with a note that they were found.
func (w *world) noted() (n int) {
	w.t.Helper()
	for e, err := range w.look().Auth.Scan(w.t.Context(), "message", "") {
		require.NoError(w.t, err)
		if bytes.Contains(e.Value, []byte(`"Found"`)) {
			n++
		}
	}
	return n
}

// The phone sends a message, and its sender sends it again to the next holder.
func TestSenderWhoSendsAgainBehindAHandOverIsNotHeard(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		send  func(*wasim.Phone, string, types.JID, *waE2E.Message) error
		kill  bool // the first holder, before its handler has taken the message
		found func(*wasim.Phone, string, types.JID) error
	}{
		"readable":            {send: (*wasim.Phone).SendAs},
		"unreadable":          {send: (*wasim.Phone).SendUnreadableAs},
		"behind a kill":       {send: (*wasim.Phone).SendAs, kill: true},
		"found by its sender": {send: (*wasim.Phone).SendAs, found: func(p *wasim.Phone, id string, to types.JID) error { return p.SendAs(id, to, text("lost?")) }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.tended("a", stability.WithAutoHeal(noHeal))
				var killed atomic.Bool
				a.refuse = func(e *events.Message) bool {
					if !c.kill || e.Message.GetConversation() == "" {
						return false
					}
					a.crash()
					time.AfterFunc(10*time.Minute, a.kill) // it would ask for the lock for hours
					killed.Store(true)
					time.Sleep(time.Hour)
					return true
				}
				a.run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				if c.found != nil {
					w.account.Phone().Late()
				}
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				if c.found != nil {
					time.Sleep(time.Second)
					require.NoError(t, c.found(carol, id, w.account.JID()))
				}
				if c.kill {
					w.await("the handler has it", killed.Load)
				} else {
					w.await("it is handled", func() bool { return slices.Contains(a.texts(), "lost?") })
					time.Sleep(2 * time.Second)
					a.stop()
				}
				require.Equal(t, 1, w.noted())

				b := w.tended("b", stability.WithAutoHeal(noHeal)).run().ready()
				time.Sleep(10 * time.Hour)
				require.Equal(t, []string{"lost?"}, append(a.written(), b.written()...))
				before, asked := b.balanced().Repeated, w.device().Stats().PeerRequests
				require.NoError(t, c.send(carol, id, w.account.JID(), text("lost?")))
				time.Sleep(10 * time.Minute)
				require.Equal(t, []string{"lost?"}, append(a.written(), b.written()...), "once")
				require.Equal(t, asked, w.device().Stats().PeerRequests, "the phone is not asked for it")
				require.Equal(t, before+1, b.balanced().Repeated)
				require.NoError(t, carol.SendAs(id, w.account.JID(), text("another")))
				w.await("another one under its id is handled", func() bool { return slices.Contains(b.texts(), "another") })
				require.Empty(t, b.m.Messages())
				b.stop()
				a.wire.heal()
				a.kill()
			})
		})
	}
}

// The phone has sent a message. In a later term its sender sends it again,
// unreadable as before, and whatsmeow asks the phone by itself.
func TestPhoneIsNotHeardOfOneMessageInTwoTerms(t *testing.T) {
	for name, handOver := range map[string]bool{"one holder asks and hears": false, "another holder hears": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t)
				a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
				require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
				carol := w.writer()
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				w.await("the phone has sent it", func() bool { return slices.Contains(a.texts(), "lost?") })
				time.Sleep(2 * time.Second)
				a.stop()

				b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
				b.m.Client().AutomaticMessageRerequestFromPhone = true
				time.Sleep(10 * time.Hour)
				w.account.Phone().Late()
				require.NoError(t, carol.SendUnreadableAs(id, w.account.JID(), text("lost?")))
				time.Sleep(10 * time.Minute)
				require.Empty(t, b.m.Messages())
				asked := w.device().Stats().PeerRequests
				took := a.written()
				if handOver {
					took = append(took, b.written()...)
					b.stop()
					b = w.instance(stability.WithAutoHeal(noHeal)).run().ready()
				}
				w.account.Phone().On()
				time.Sleep(10 * time.Minute)
				require.Equal(t, asked+1, w.device().Stats().PeerRequests, "whatsmeow has asked, and the phone has answered")
				require.Equal(t, []string{"lost?"}, append(took, b.written()...), "once")
				require.Empty(t, b.m.Messages())
				b.balanced()
				b.stop()
			})
		})
	}
}

func TestNotesOfWhatWasFoundAreBounded(t *testing.T) {
	t.Parallel()
	t.Run("by age", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			w := newWorld(t)
			a := w.instance(stability.WithAutoHeal(noHeal)).run().pair()
			require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
			_, err := w.writer().SendUnreadable(w.account.JID(), text("lost?"))
			require.NoError(t, err)
			w.await("the phone has sent it", func() bool { return slices.Contains(a.texts(), "lost?") })
			time.Sleep(2 * time.Second)
			a.stop()
			require.Equal(t, 1, w.noted())
			time.Sleep(14*24*time.Hour - 5*time.Minute)
			b := w.instance(stability.WithAutoHeal(noHeal)).run().ready()
			time.Sleep(time.Minute)
			require.Equal(t, 1, w.noted())
			time.Sleep(20 * time.Minute)
			require.Zero(t, w.noted())
			b.stop()
		})
	})
	t.Run("by count", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			const most, came = 1000, 5
			w := newWorld(t)
			carol := w.writer()
			twice := func() { // unreadable, and again
				id, err := carol.SendUnreadable(w.account.JID(), text("lost?"))
				require.NoError(t, err)
				require.NoError(t, carol.SendAs(id, w.account.JID(), text("lost?")))
			}
			store := authstore.New(w.memory.Backend().Auth)
			a := w.instance(stability.WithAutoHeal(noHeal), stability.WithAuthStore(store)).run().pair()
			twice()
			w.await("it is noted", func() bool { return w.noted() == 1 })
			time.Sleep(time.Minute) // the note takes the place of the entry
			rows, err := store.MessageEntries(t.Context())
			require.NoError(t, err)
			var earlier []string // the oldest first
			for id, row := range rows {
				if !bytes.Contains(row, []byte(`"Found"`)) {
					continue
				}
				for i := range most - 1 {
					id, row = stability.NoteCopied(t, row, fmt.Sprint("earlier ", i), time.Now().Add(time.Duration(i-most)*time.Second))
					require.NoError(t, store.PutMessageEntry(t.Context(), id, row, false))
					earlier = append(earlier, id)
				}
			}
			a.stop()
			require.Equal(t, most, w.noted())

			store = authstore.New(w.memory.Backend().Auth)
			a = w.instance(stability.WithAutoHeal(noHeal), stability.WithAuthStore(store)).run().ready()
			for range came - 1 {
				twice()
			}
			require.NoError(t, w.account.Phone().On().ShareAppStateKeys())
			_, err = carol.SendUnreadable(w.account.JID(), text("lost, and the phone has it"))
			require.NoError(t, err)
			w.await("the handler has all", func() bool { return len(a.written()) == came })
			time.Sleep(time.Minute)
			require.Empty(t, a.m.Messages())
			require.Equal(t, most, w.noted())
			rows, err = store.MessageEntries(t.Context())
			require.NoError(t, err)
			for i, id := range earlier {
				require.Equal(t, i >= came, rows[id] != nil, "the oldest have gone: %d", i)
			}
			a.balanced()
			a.stop()
		})
	})
}
