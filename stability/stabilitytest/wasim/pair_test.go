package wasim_test

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// showing is an unpaired client that shows QR codes.
func showing(t *testing.T, s *wasim.Service) *host {
	t.Helper()
	h := newHost(s, wasim.NewMemoryDevice())
	require.NoError(t, h.connect())
	eventually(t, "QR codes", func() bool { return len(got[*events.QR](h)) == 1 })
	return h
}

func (h *host) code() string { return got[*events.QR](h)[0].Codes[0] }

// newer is the QR text of a newer client, whichever client is under test.
func newer(code string) string {
	if strings.HasPrefix(code, "https://") {
		return code
	}
	return "https://wa.me/settings/linked_devices#" + code + ",1"
}

func TestTheLinkInAQRCodePairsToo(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := showing(t, s)
		code := newer(h.code())
		for _, bad := range []string{
			code[:len(code)-2],                // without the kind of client
			code + "x",                        // no kind of client
			code + ",1",                       // a part too many
			strings.Split(code, "#")[1],       // five parts without the link
			strings.Replace(code, ",", "", 1), // a part too few
		} {
			require.Error(t, acct.Phone().Scan(bad))
		}
		require.NoError(t, acct.Phone().ScanWithoutMultidevice(code))
		require.NoError(t, acct.Phone().Scan(code))
		eventually(t, "paired", func() bool { return len(got[*events.PairSuccess](h)) == 1 })
		h.end()
	})
}

func TestAPhoneCodePairs(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := showing(t, s)
		code, err := h.cli.PairPhone(t.Context(), "+49 170 0000001", true, whatsmeow.PairClientChrome, "Chrome (Linux)")
		require.NoError(t, err)
		require.NoError(t, acct.Phone().EnterCode(code))
		h.restarts(t)
		require.NoError(t, acct.PairingError())
		eventually(t, "closed", func() bool { return !h.up() })
		h.cli.Disconnect()
		h.login(t)
		require.Equal(t, acct.Devices()[0].JID(), h.jid())
		require.Equal(t, acct.Devices()[0].LID(), h.dev.LID)
		h.end()
	})
}

func TestAWrongPhoneCodePairsNobody(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := showing(t, s)
		require.ErrorIs(t, acct.Phone().EnterCode("AAAA-AAAA"), wasim.ErrNoSuchCode, "nobody asked for one")
		_, err := h.cli.PairPhone(t.Context(), "491700000001", true, whatsmeow.PairClientChrome, "Chrome (Linux)")
		require.NoError(t, err)
		require.Error(t, acct.Phone().EnterCode("AAAA"))
		require.NoError(t, acct.Phone().EnterCode("AAAA-AAAA"))
		eventually(t, "the phone noticed", func() bool { return acct.PairingError() != nil })
		require.Empty(t, acct.Devices())
		h.end()
	})
}

func TestPairingForAnUnknownNumberIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		h := showing(t, s)
		_, err := h.cli.PairPhone(t.Context(), "491700000009", true, whatsmeow.PairClientChrome, "Chrome (Linux)")
		require.ErrorIs(t, err, whatsmeow.ErrIQNotFound)
		_, err = h.cli.PairPhone(t.Context(), "491700000009", true, whatsmeow.PairClientChrome, "no browser")
		require.Error(t, err)
		h.end()
	})
}

func TestABadAnswerOfThePhoneIsAPairError(t *testing.T) {
	for name, how := range map[string]wasim.ScanOption{"HMAC": wasim.BadHMAC(), "signature": wasim.BadSignature()} {
		t.Run(name, func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *wasim.Service) {
				acct := s.NewAccount("491700000001")
				h := showing(t, s)
				// let the client's own Disconnect find a closed link, see the package doc
				require.NoError(t, acct.Phone().Scan(h.code(), how))
				eventually(t, "refused", func() bool { return acct.PairingError() != nil })
				eventually(t, "pair error", func() bool { return len(got[*events.PairError](h)) == 1 })
				require.Empty(t, acct.Devices())
				require.Nil(t, h.dev.ID)
				h.end()
			})
		})
	}
}

func TestAScanWithoutMultideviceLeavesTheCodeValid(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := showing(t, s)
		require.NoError(t, acct.Phone().ScanWithoutMultidevice(h.code()))
		eventually(t, "told", func() bool { return len(got[*events.QRScannedWithoutMultidevice](h)) == 1 })
		require.NoError(t, acct.Phone().Scan(h.code()))
		eventually(t, "paired", func() bool { return len(got[*events.PairSuccess](h)) == 1 })
		h.end()
	})
}

func TestCodesRunOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		acct := s.NewAccount("491700000001")
		h := showing(t, s)
		time.Sleep(159 * time.Second)
		require.Empty(t, h.all())
		require.ErrorIs(t, acct.Phone().Scan(h.code()), wasim.ErrNoSuchCode, "the first is old")
		time.Sleep(2 * time.Second)
		require.Len(t, got[*events.Disconnected](h), 1)
		require.ErrorIs(t, acct.Phone().Scan(got[*events.QR](h)[0].Codes[5]), wasim.ErrNoSuchCode)
		require.Nil(t, h.dev.ID)
		h.end()
	})
}

func TestTheFaultsOfUnpairedClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		h := showing(t, s)
		require.Equal(t, 1, s.Fault(wasim.DowngradeWebclient()).Now().Fired())
		time.Sleep(time.Second)
		require.Len(t, got[*events.QRScannedWithoutMultidevice](h), 1)
		require.Equal(t, 1, s.Fault(wasim.RefsExhausted()).Now().Fired())
		time.Sleep(time.Second)
		require.Len(t, got[*events.Disconnected](h), 1)
		s.Fault(wasim.Failure(405)).OnNextLogin()
		require.NoError(t, h.connect())
		time.Sleep(time.Second)
		require.Len(t, got[*events.ClientOutdated](h), 1)
		h.end()
	})
}

func TestARemovedDeviceIsLoggedOutAndStaysOut(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := online(t, s, acct)
		jid, kept := h.jid(), *h.dev // a host that keeps the credentials
		acct.Phone().RemoveDevice(s.Device(jid))
		eventually(t, "logged out", func() bool { return len(got[*events.LoggedOut](h)) == 1 })
		eventually(t, "closed", func() bool { return !h.up() })
		require.Nil(t, s.Device(jid))
		time.Sleep(100 * time.Millisecond)
		h.cli.Disconnect()

		again := newHost(s, &kept)
		require.NoError(t, again.connect())
		eventually(t, "refused", func() bool { return len(got[*events.LoggedOut](again)) == 1 })
		require.True(t, got[*events.LoggedOut](again)[0].OnConnect)
		eventually(t, "closed", func() bool { return !again.up() })
		again.cancel()
		h.end()
	})
}

// In virtual time no client misses it.
func TestAPairingEndsWithTheWishForANewConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := showing(t, s)
		require.NoError(t, acct.Phone().Scan(got[*events.QR](h)[0].Codes[0]))
		eventually(t, "restart asked for", func() bool { return len(got[*events.ManualLoginReconnect](h)) == 1 })
		h.end()
	})
}

func TestAClientThatLogsOutIsGone(t *testing.T) {
	t.Parallel() // on a real socket only: Logout disconnects a live link
	s := wasim.New(wasim.WithTB(t))
	require.NoError(t, s.Listen())
	acct := s.NewAccount("491700000001")
	h := online(t, s, acct)
	if err := h.cli.Logout(t.Context()); err != nil { // the answer and the end of the connection, found at once
		require.ErrorIs(t, err, whatsmeow.ErrIQDisconnected)
	}
	require.Empty(t, acct.Devices())
	h.end()
}

// A handler of the old connection returns on the new one, and whatsmeow sends the
// receipt for its message there.
func TestStanzasOfAnEarlierLoginAreNoViolation(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		h := online(t, s, acct)
		bob := newContact(t, s, "491700000002")
		again := make(chan error, 1)
		h.cli.AddEventHandler(func(e any) {
			if _, ok := e.(*events.Message); ok {
				again <- errors.Join(h.cli.Logout(h.ctx), h.connect())
			}
		})
		_, err := bob.Send(t.Context(), acct.JID(), "hello")
		require.NoError(t, err)
		if err := <-again; err != nil { // newer versions of whatsmeow refuse that, so there is no new connection
			require.ErrorContains(t, err, "invalid use of deleted device")
			require.Empty(t, s.Violations())
			h.end()
			return
		}
		eventually(t, "the receipt came", func() bool { return s.Strays()["receipt"] == 1 })
		query := waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"xmlns": "usync", "type": "get", "id": "1"}}
		require.NoError(t, h.cli.DangerousInternals().SendNode(h.ctx, query))
		eventually(t, "the query came", func() bool { return s.Strays()["iq"] == 1 })
		require.Empty(t, s.Violations())
		require.Empty(t, s.Unknown())
		eventually(t, "QR codes", func() bool { return len(got[*events.QR](h)) == 1 })
		h.end()
	})
}

func TestStanzaOfAClientThatNeverLoggedInIsAViolation(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *wasim.Service) {
		s := wasim.New(wasim.WithTB(&recorder{TB: t})) // the violation is wanted
		h := newHost(s, wasim.NewMemoryDevice())
		require.NoError(t, h.connect())
		require.NoError(t, h.cli.DangerousInternals().SendNode(h.ctx, waBinary.Node{Tag: "receipt"}))
		eventually(t, "the violation", func() bool { return len(s.Violations()) == 1 })
		require.Empty(t, s.Strays())
		h.end()
	})
}

func TestAnotherNoiseKeyIsRefused(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *wasim.Service) {
		s := wasim.New(wasim.WithTB(&recorder{TB: t})) // the violation is wanted
		h := newHost(s, pair(t, s, s.NewAccount("491700000001")))
		stolen := wasim.NewMemoryDevice()
		stolen.ID, stolen.LID, stolen.Account = h.dev.ID, h.dev.LID, h.dev.Account
		thief := newHost(s, stolen)
		require.NoError(t, thief.connect())
		eventually(t, "refused", func() bool { return len(got[*events.LoggedOut](thief)) == 1 })
		require.Len(t, s.Violations(), 1)
		thief.cancel()
		h.end()
	})
}

func TestTheSecondLoginReplacesTheFirst(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		first := online(t, s, s.NewAccount("491700000001"))
		second := newHost(s, first.dev)
		second.login(t)
		eventually(t, "replaced", func() bool { return len(got[*events.StreamReplaced](first)) == 1 })
		require.Empty(t, got[*events.Disconnected](first))
		time.Sleep(200 * time.Millisecond)
		require.Empty(t, second.all())
		st := s.Device(first.jid()).Stats()
		require.Equal(t, 2, st.Logins)
		require.Equal(t, 1, st.Replaced)
		first.cancel()
		second.end()
	})
}
