package wasim_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/appstate"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/proto/waHistorySync"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestADeepBacklogIsWrittenByAPhoneAndReadInOrder(t *testing.T) {
	// Beyond the 2,048 that its queue takes whatsmeow keeps no order.
	n := stabilitytest.Pick(300, 2000)
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		dev := pair(t, s, acct)
		h := newHost(s, dev)
		h.login(t) // its prekeys are there
		drop(t, h)
		var want []string
		for i := range n {
			want = append(want, fmt.Sprint(i))
		}
		carol := s.NewAccount("491700000004")
		ids, err := carol.Phone().Send(acct.JID(), want...)
		require.NoError(t, err)
		d := s.Device(*dev.ID)
		require.Equal(t, ids, d.Pending())
		require.Empty(t, d.AckedMessages())

		again := newHost(s, dev)
		again.login(t)
		eventually(t, "all of it", func() bool { return len(d.Pending()) == 0 })
		require.Equal(t, want, texts(again))
		require.Equal(t, ids, d.AckedMessages())
		require.Equal(t, carol.JID(), got[*events.Message](again)[0].Info.Sender)
		more, err := carol.Phone().Send(acct.JID(), "live")
		require.NoError(t, err)
		eventually(t, "it came", func() bool { return len(texts(again)) == n+1 })
		eventually(t, "it was acknowledged", func() bool { return slices.Contains(d.AckedMessages(), more[0]) })
		again.end()
	})
}

func TestAPhoneThatIsOnAnswersRetryReceipts(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := online(t, s, s.NewAccount("491700000001"))
		carol := s.NewAccount("491700000004").Phone()
		_, err := carol.Send(h.jid().ToNonAD(), "hello")
		require.NoError(t, err)
		_, err = carol.SendUnreadable(h.jid().ToNonAD(), text("lost"))
		require.NoError(t, err)
		d := s.Device(h.jid())
		eventually(t, "asked for again", func() bool { return d.Stats().RetryReceipts == 1 })
		eventually(t, "and the client says so", func() bool { return len(got[*events.UndecryptableMessage](h)) == 1 })
		eventually(t, "acknowledged all the same", func() bool { return len(d.Pending()) == 0 })
		require.Equal(t, []string{"hello"}, texts(h), "the phone is off")

		carol.On()
		_, err = carol.SendUnreadable(h.jid().ToNonAD(), text("found"))
		require.NoError(t, err)
		eventually(t, "sent again", func() bool { return len(texts(h)) == 2 })
		require.Equal(t, []string{"hello", "found"}, texts(h))
		_, err = carol.Send(h.jid().ToNonAD(), "and on")
		require.NoError(t, err)
		eventually(t, "the session is good", func() bool { return len(texts(h)) == 3 })
		h.end()
	})
}

func TestAPhoneResendsWhatADeviceCouldNotRead(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := online(t, s, acct)
		acct.Phone().On()
		require.NoError(t, acct.Phone().ShareAppStateKeys(), "the first message of a phone begins the session")
		carol := s.NewAccount("491700000004").Phone() // off: answers no retry receipt
		id, err := carol.SendUnreadable(h.jid().ToNonAD(), text("lost"))
		require.NoError(t, err)
		eventually(t, "seen", func() bool { return len(got[*events.UndecryptableMessage](h)) == 1 })
		info := got[*events.UndecryptableMessage](h)[0].Info
		require.Equal(t, id, info.ID)
		d := s.Device(h.jid())
		eventually(t, "the phone's message was read", func() bool { return len(d.Pending()) == 0 })

		ask := func(id types.MessageID) {
			req := h.cli.BuildUnavailableMessageRequest(info.Chat, info.Sender, id)
			_, err = h.cli.SendMessage(within(t, time.Minute), h.jid().ToNonAD(), req, whatsmeow.SendRequestExtra{Peer: true})
			require.NoError(t, err)
		}
		found := func() (list []*events.Message) {
			for _, m := range got[*events.Message](h) {
				if m.UnavailableRequestID != "" {
					list = append(list, m)
				}
			}
			return list
		}
		eventually(t, "the client asked by itself", func() bool { return len(found()) == 1 })
		before := d.Stats().PeerRequests
		require.Equal(t, 1, before)
		require.Equal(t, "lost", found()[0].Message.GetConversation())
		require.Equal(t, id, found()[0].Info.ID)
		ask(id)
		eventually(t, "once more", func() bool { return len(found()) == 2 })
		ask("NOBODY-WROTE-IT")
		eventually(t, "answered", func() bool { return d.Stats().PeerRequests == before+2 && len(d.Pending()) == 0 })
		require.Len(t, found(), 2)
		acct.Phone().Off()
		ask(id)
		time.Sleep(200 * time.Millisecond)
		require.Equal(t, before+2, d.Stats().PeerRequests, "it is off")
		require.Len(t, found(), 2)
		h.end()
	})
}

func TestHistoryArrives(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := online(t, s, acct)
		require.NoError(t, acct.Phone().SendHistory(&waHistorySync.HistorySync{
			SyncType: waHistorySync.HistorySync_PUSH_NAME.Enum(), Progress: proto.Uint32(100),
			Pushnames: []*waHistorySync.Pushname{{ID: proto.String("491700000009@s.whatsapp.net"), Pushname: proto.String("Nine")}},
		}))
		notice := func() *waE2E.HistorySyncNotification {
			for _, m := range got[*events.Message](h) {
				if n := m.Message.GetProtocolMessage().GetHistorySyncNotification(); n != nil {
					return n
				}
			}
			return nil
		}
		eventually(t, "it came", func() bool { return notice() != nil })
		data, err := h.cli.DownloadHistorySync(t.Context(), notice(), true)
		require.NoError(t, err)
		require.EqualValues(t, 100, data.GetProgress())
		who, err := h.dev.Contacts.GetContact(t.Context(), types.NewJID("491700000009", types.DefaultUserServer))
		require.NoError(t, err)
		require.Equal(t, "Nine", who.PushName)
		eventually(t, "acknowledged", func() bool { return len(s.Device(h.jid()).Pending()) == 0 })
		h.end()
	})
}

// pinned are the chats that a client was told are pinned.
func pinned(h *host) (users []string) {
	for _, p := range got[*events.Pin](h) {
		users = append(users, p.JID.User)
	}
	return users
}

func pin(user string) appstate.PatchInfo {
	return appstate.BuildPin(types.NewJID(user, types.DefaultUserServer), true)
}

func TestAppStateOfThePhoneReachesTheDevices(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := online(t, s, acct)
		phone := acct.Phone().On()
		require.NoError(t, phone.Patch(pin("1")))
		require.NoError(t, phone.ShareAppStateKeys())
		// The keys may come twice, since the client asks for one that it lacks. A full
		// sync tells of no changes.
		eventually(t, "all collections", func() bool {
			names := map[appstate.WAPatchName]bool{}
			for _, e := range got[*events.AppStateSyncComplete](h) {
				names[e.Name] = true
			}
			return len(names) == len(appstate.AllPatchNames)
		})
		require.NoError(t, phone.Patch(pin("2")))
		eventually(t, "told", func() bool { return len(pinned(h)) > 0 && pinned(h)[len(pinned(h))-1] == "2" })
		settings, err := h.dev.ChatSettings.GetChatSettings(t.Context(), types.NewJID("1", types.DefaultUserServer))
		require.NoError(t, err)
		require.True(t, settings.Pinned, "what was there before the keys came")

		// the client writes, and a second device reads it
		require.NoError(t, h.cli.SendAppState(within(t, time.Minute), pin("3")))
		require.NoError(t, phone.Patch(pin("4")), "the phone has read it")
		eventually(t, "told", func() bool { return slices.Contains(pinned(h), "4") }) // the client tells of its own one beside
		version, _, err := h.dev.AppState.GetAppStateVersion(t.Context(), string(appstate.WAPatchRegularLow))
		require.NoError(t, err)
		require.EqualValues(t, 4, version)
		h.end()
	})
}

func TestABadPatchStopsACollectionUntilItIsMended(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := online(t, s, acct)
		phone := acct.Phone().On()
		require.NoError(t, phone.ShareAppStateKeys())
		require.NoError(t, phone.Patch(pin("1")))
		version := func() uint64 {
			v, _, err := h.dev.AppState.GetAppStateVersion(t.Context(), string(appstate.WAPatchRegularLow))
			require.NoError(t, err)
			return v
		}
		eventually(t, "read", func() bool { return version() == 1 })
		require.NoError(t, phone.BadPatch(pin("2")))
		require.ErrorContains(t, phone.Patch(pin("3")), "MendPatch")
		err := h.cli.FetchAppState(within(t, time.Minute), appstate.WAPatchRegularLow, false, false)
		require.True(t, errors.Is(err, appstate.ErrMismatchingLTHash) || errors.Is(err, appstate.ErrMismatchingPatchMAC), "%v", err)
		require.EqualValues(t, 1, version())
		phone.MendPatch(appstate.WAPatchRegularLow)
		eventually(t, "read", func() bool { return version() == 2 })
		require.NoError(t, phone.Patch(pin("3")))
		eventually(t, "read", func() bool { return version() == 3 })
		h.end()
	})
}

func TestAMissingAppStateKeyIsAskedOfThePhone(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := online(t, s, acct)
		phone := acct.Phone().On()
		require.NoError(t, phone.ShareAppStateKeys())
		require.NoError(t, phone.Patch(pin("1")))
		name := string(appstate.WAPatchRegularLow)
		version := func() uint64 {
			v, _, err := h.dev.AppState.GetAppStateVersion(t.Context(), name)
			require.NoError(t, err)
			return v
		}
		eventually(t, "read", func() bool { return version() == 1 })
		require.NoError(t, phone.RotateAppStateKey())
		require.NoError(t, phone.Patch(pin("2")))
		eventually(t, "the key came", func() bool { return version() == 2 })
		require.Equal(t, 1, s.Device(h.jid()).Stats().PeerRequests)
		h.end()
	})
}

// 6,000 to 10,000 messages a second on a machine with two cores.
func BenchmarkPhoneSend(b *testing.B) {
	s := wasim.New()
	defer s.Close()
	if err := s.Listen(); err != nil {
		b.Fatal(err)
	}
	bob, err := s.NewContact(b.Context(), "491700000001")
	if err != nil {
		b.Fatal(err)
	}
	to := bob.JID()
	bob.Close() // what is sent waits for him
	alice := s.NewAccount("491700000002").Phone()
	for b.Loop() {
		if _, err := alice.Send(to, "hello"); err != nil {
			b.Fatal(err)
		}
	}
}
