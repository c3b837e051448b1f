package wasim_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types/events"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestASavedServiceKnowsItsDevicesAndWhatTheyHaveNotRead(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		acct := s.NewAccount("491700000001")
		dev := pair(t, s, acct)
		h := newHost(s, dev)
		h.login(t)
		s.Fault(wasim.FIN()).For(h.jid()).Now()
		eventually(t, "down", func() bool { return !h.up() })
		time.Sleep(50 * time.Millisecond)
		h.cli.Disconnect()
		h.cancel()
		bob := newContact(t, s, "491700000002")
		_, err := bob.Send(within(t, time.Minute), acct.JID(), "kept")
		require.NoError(t, err)
		keysLeft := s.Device(*dev.ID).PreKeys()
		g := s.NewGroup("team", acct, bob.Account())
		s.Close()
		var saved bytes.Buffer
		require.NoError(t, s.Save(&saved))

		again, err := wasim.Load(bytes.NewReader(saved.Bytes()), wasim.WithTB(t))
		require.NoError(t, err)
		require.Equal(t, keysLeft, again.Device(*dev.ID).PreKeys())
		require.Equal(t, []string{s.Device(*dev.ID).Pending()[0]}, again.Device(*dev.ID).Pending())
		h = newHost(again, dev)
		h.login(t)
		eventually(t, "read", func() bool { return len(texts(h)) == 1 })
		require.Equal(t, []string{"kept"}, texts(h))
		require.Equal(t, g.JID(), again.Groups()[0].JID())

		bob, err = again.NewContact(within(t, time.Minute), "491700000002")
		require.NoError(t, err)
		require.Len(t, bob.Account().Devices(), 1, "in place of the old one")
		_, err = bob.Send(within(t, time.Minute), g.JID(), "back")
		require.NoError(t, err)
		eventually(t, "read", func() bool {
			for _, m := range texts(h) {
				if m == "back" {
					return true
				}
			}
			return false
		})
		h.end()
	})
}

func TestSavingToAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "service.json")
	s, loaded, err := wasim.Open(path)
	require.NoError(t, err)
	require.False(t, loaded)
	s.NewAccount("491700000001")
	require.NoError(t, s.SaveFile(path))
	s.Close()
	s, loaded, err = wasim.Open(path)
	require.NoError(t, err)
	require.True(t, loaded)
	require.NotNil(t, s.AccountOf("491700000001"))
	s.Close()
	require.NoError(t, os.WriteFile(path, []byte(`{"Format":99}`), 0o600))
	_, _, err = wasim.Open(path)
	require.ErrorContains(t, err, "format 99")
}

// childEnv makes the test binary a client in a process of its own.
const childEnv = "WASIM_TEST_ENDPOINT"

func TestMain(m *testing.M) {
	if e := os.Getenv(childEnv); e != "" {
		os.Exit(child(e))
	}
	_ = flag.Set("test.parallel", "8") // unless the command line says another: they wait most of the time
	debug.SetGCPercent(400)
	os.Exit(m.Run())
}

func child(endpoint string) int {
	var e wasim.Endpoint
	if json.Unmarshal([]byte(endpoint), &e) != nil {
		return 3
	}
	tr, err := e.Transport("child")
	if err != nil {
		return 4
	}
	cli := whatsmeow.NewClient(wasim.NewMemoryDevice(), nil)
	cli.SetPreLoginHTTPClient(&http.Client{Transport: tr, Timeout: 10 * time.Second})
	qr := make(chan string, 1)
	cli.AddEventHandler(func(e any) {
		if q, ok := e.(*events.QR); ok {
			qr <- q.Codes[0]
		}
	})
	if err = cli.Connect(); err != nil {
		_, _ = os.Stdout.WriteString("error " + err.Error())
		return 0
	}
	_, _ = os.Stdout.WriteString(<-qr)
	return 0
}

func TestAnotherProcessReachesTheService(t *testing.T) {
	t.Parallel()
	s := wasim.New(wasim.WithTB(t))
	require.NoError(t, s.Listen())
	e, err := json.Marshal(s.Endpoint())
	require.NoError(t, err)
	run := func() string {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+string(e))
		out, err := cmd.Output()
		require.NoError(t, err)
		return string(out)
	}
	require.Contains(t, run(), "2@", "a QR code")
	require.Equal(t, 1, s.DialsFrom("child"))
	s.Fault(wasim.Refused()).From("child").OnNextLogin()
	require.Contains(t, run(), "reset")
	s.Close()
}
