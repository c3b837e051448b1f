//go:build linux || darwin

package authstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/authstore"
	"github.com/wastability/wastability/lock"
	"github.com/wastability/wastability/stability/localbackend"
	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/child"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

const victimEnv = "WASTABILITY_AUTHSTORE_VICTIM"

// victim is a client in a process of its own, that receives, sends and uploads
// prekeys until it is killed.
type victim struct {
	Service  wasim.Endpoint
	File     string // a localbackend
	Received string // the id of each message that was handled, synced
	Sent     string // each text that was sent, synced
	Peer     types.JID
	Turn     int   // 0: chats all the time; else which turn on the account this is
	Base     int64 // Unix seconds, from which turns count the times of tokens
}

func init() {
	authstore.PlayPart = func() bool { return child.Play(victimEnv, victim.play) }
}

func appendLine(path, text string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, text)
	return errors.Join(err, f.Sync(), f.Close())
}

// play runs until standard input ends. It says one word and a text per line.
func (v victim) play() error {
	var mu sync.Mutex
	say := func(word string, text any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(word, text)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b, err := localbackend.Open(v.File)
	if err != nil {
		return err
	}
	lease, err := lock.New(b.Lock, fmt.Sprint("victim ", os.Getpid()), lock.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		return err
	}
	term, err := lease.Acquire(ctx) // the one that was killed is gone, and its lock with it, in a moment
	if err != nil {
		return err
	}
	store := authstore.New(b.Auth)
	dev, err := store.Device(ctx, authstore.NewTestFence(term.Epoch()))
	if err != nil {
		return err
	}
	transport, err := v.Service.Transport("victim")
	if err != nil {
		return err
	}
	c := whatsmeow.NewClient(dev, nil)
	c.EnableAutoReconnect, c.DisableLoginAutoReconnect = false, true
	c.ManualHistorySyncDownload, c.EnableDecryptedEventBuffer, c.SynchronousAck = true, true, true
	c.RefreshCAT = func(context.Context) error { return errors.New("no CAT") }
	web := &http.Client{Transport: transport, Timeout: 15 * time.Second}
	c.SetWebsocketHTTPClient(web)
	c.SetPreLoginHTTPClient(web)
	c.SetMediaHTTPClient(web)
	var work sync.WaitGroup
	paired := make(chan struct{})
	c.AddEventHandlerWithSuccessStatus(func(evt any) bool {
		switch e := evt.(type) {
		case *events.QR:
			say("qr", e.Codes[0])
		case *events.ManualLoginReconnect:
			close(paired)
		case *events.Connected:
			say("connected", "")
			if v.Turn > 0 {
				work.Go(func() {
					if err := v.turn(ctx, c, say); err != nil {
						say("error", err)
					}
				})
				break
			}
			work.Go(func() { c.DangerousInternals().UploadPreKeys(ctx, false) })
			work.Go(func() { v.chat(ctx, c) })
		case *events.UndecryptableMessage:
			say("undecryptable", e.Info.ID)
		case *events.LoggedOut, *events.ConnectFailure:
			say("refused", fmt.Sprintf("%+v", e))
		case *events.Message:
			if err := appendLine(v.Received, e.Info.ID); err != nil {
				say("error", err)
				return false
			}
		}
		return true
	})
	if err := c.ConnectContext(ctx); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() { _, _ = io.Copy(io.Discard, os.Stdin); close(ended) }()
	select {
	case <-paired: // the new connection is another process's affair
		say("paired", "")
		<-ended
	case <-ended:
	}
	cancel()
	work.Wait()
	c.Disconnect()
	return errors.Join(store.Close(context.Background()), term.Release(context.Background()), b.Close())
}

// chat sends all the time. What SendMessage has returned from without an error
// is noted: each of these must arrive.
func (v victim) chat(ctx context.Context, c *whatsmeow.Client) {
	for n := 0; ctx.Err() == nil; n++ {
		text := fmt.Sprintf("v%d.%d", os.Getpid(), n)
		_, err := c.SendMessage(ctx, v.Peer, &waE2E.Message{Conversation: proto.String(text)})
		if err == nil {
			err = appendLine(v.Sent, text)
		}
		if err != nil && !errors.Is(err, authstore.ErrWindowBroken) && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
	}
}

func (v victim) start(t *testing.T) *child.Process {
	t.Helper()
	return child.Start(t, victimEnv, v)
}

// A client on a file is killed at random moments of a chat, of its prekey
// uploads and of its logins. No session is lost: nothing is undecryptable on
// either side, and no device pairs twice. No message counter is used twice: a
// peer drops the second message without a word, so each text that SendMessage
// has returned from arrives. No prekey id stands for two keys: the service
// reports that. What is delivered again is decrypted, or known to be done.
func TestKilledAtRandomPointsOfAChatNothingIsLostOrUsedTwice(t *testing.T) {
	t.Parallel()
	if stabilitytest.Race {
		t.Skip("the process that is killed would end by itself on whatsmeow's own race")
	}
	kills := stabilitytest.Pick(10, 500)
	s := wasim.New(wasim.WithTB(t))
	require.NoError(t, s.Listen())
	account := s.NewAccount("491700000100")
	peer, err := s.NewContact(t.Context(), "491700000101")
	require.NoError(t, err)
	stranger, err := s.NewContact(t.Context(), "491700000102")
	require.NoError(t, err)
	dir := t.TempDir()
	v := victim{
		Service: s.Endpoint(), File: filepath.Join(dir, "wa.db"), Peer: peer.JID(),
		Received: filepath.Join(dir, "received"), Sent: filepath.Join(dir, "sent"),
	}
	l := v.start(t)
	require.NoError(t, account.Phone().Scan(l.Hears("qr")))
	l.Hears("paired")
	l.Kill()
	// First contact, one after the other: two first messages that cross are a
	// matter of the protocol, not of the store.
	hello, err := peer.Send(t.Context(), account.JID(), "hello")
	require.NoError(t, err)
	l = v.start(t)
	l.Hears("connected")
	device := account.Devices()[0]
	waitFor(t, "the first message", func() bool { return len(device.Pending()) == 0 && len(peer.Texts()) > 0 })

	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var mu sync.Mutex
	sent := map[string]bool{hello: true}
	write := func(c *wasim.Contact, every time.Duration, before func()) {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				before()
				id, err := c.Send(t.Context(), account.JID(), fmt.Sprint("c", n))
				if err != nil {
					t.Errorf("a contact's message: %v", err)
					return
				}
				mu.Lock()
				sent[id] = true
				mu.Unlock()
				time.Sleep(every)
			}
		})
	}
	write(peer, 5*time.Millisecond, func() {})
	// Each message of the stranger begins a session, with a prekey of its own.
	write(stranger, 50*time.Millisecond, func() {
		for _, jid := range []types.JID{account.JID(), account.LID()} {
			if err := stranger.Client().Store.Sessions.DeleteAllSessions(ctx, jid.SignalAddressUser()); err != nil && ctx.Err() == nil {
				t.Errorf("forget a session: %v", err)
			}
		}
	})

	start, connected := time.Now(), true
	for range kills {
		time.Sleep(rand.N(150 * time.Millisecond))
		l.Kill()
		l.Silent("undecryptable", "qr", "refused", "error")
		l = v.start(t)
		if connected = rand.N(4) > 0; connected { // else it is killed wherever it is on the way
			l.Hears("connected")
		}
	}
	took := time.Since(start)
	if !connected {
		l.Hears("connected")
	}
	cancel()
	wg.Wait()
	waitFor(t, "everything is delivered", func() bool { return len(device.Pending()) == 0 })
	l.Leave()
	l.Silent("undecryptable", "qr", "refused", "error")

	require.Len(t, account.Devices(), 1, "paired once")
	require.Zero(t, device.Stats().RetryReceipts)
	seen, twice := child.Recorded(t, v.Received), 0
	for id := range sent {
		require.Positive(t, seen[id], "a message that is lost")
		twice += seen[id] - 1
	}
	require.LessOrEqual(t, twice, 2*kills, "at most the one in flight from each contact at each kill")
	out := child.Recorded(t, v.Sent)
	require.Greater(t, len(out), kills, "it has sent all the time")
	waitFor(t, "what was sent arrives", func() bool {
		got := make(map[string]int)
		for _, text := range peer.Texts() {
			got[text]++
		}
		for text := range out {
			if got[text] == 0 {
				return false
			}
		}
		return true
	})
	require.Zero(t, peer.Undecryptable())
	got := make(map[string]int)
	for _, text := range peer.Texts() {
		got[text]++
		require.Equal(t, 1, got[text], text)
	}
	st := device.Stats()
	require.Greater(t, st.PreKeysHandedOut, kills/10, "sessions were begun")
	t.Logf("%d kills in %s: %d messages received, %d of them handed over twice; %d sent; %d prekeys uploaded, %d handed out, %d messages delivered again",
		kills, took.Round(time.Millisecond), len(sent), twice, len(out), st.PreKeysUploaded, st.PreKeysHandedOut, st.Redelivered)
	s.Close()
	require.Empty(t, s.Violations())
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, "waited in vain for "+what)
		}
	}
}
