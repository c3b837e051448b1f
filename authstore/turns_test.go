//go:build linux || darwin

package authstore_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/stabilitytest"
	"github.com/wastability/wastability/stability/stabilitytest/child"
	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

// whatsmeowEnv names the folder of another whatsmeow; .ci/run takes it, too.
const whatsmeowEnv = "WASTABILITY_WHATSMEOW"

// field is a field that only newer versions of whatsmeow have.
func field(of any, name string) (reflect.Value, bool) {
	f := reflect.ValueOf(of).Elem().FieldByName(name)
	return f, f.IsValid()
}

type newerStore interface {
	PutNCTSalt(ctx context.Context, salt []byte) error
	GetNCTSalt(ctx context.Context) ([]byte, error)
	GetOutgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (string, []byte, error)
}

// turn says what a newer whatsmeow has left in the store, and leaves what this
// one has to leave: three messages, a token, a saved device.
func (v victim) turn(ctx context.Context, c *whatsmeow.Client, say func(string, any)) error {
	d := c.Store
	more := any(d.EventBuffer).(newerStore)
	tok := store.PrivacyToken{User: v.Peer, Token: fmt.Append(nil, "token ", v.Turn), Timestamp: time.Unix(v.Base+int64(v.Turn), 0)}
	nonce, newer := field(d, "CompanionMetaNonce")
	if newer {
		old, err := d.PrivacyTokens.GetPrivacyToken(ctx, v.Peer)
		if err != nil {
			return err
		}
		salt, err := more.GetNCTSalt(ctx)
		if err != nil {
			return err
		}
		sent := int64(0)
		if old != nil {
			f, _ := field(old, "SenderTimestamp")
			sent = f.Interface().(time.Time).Unix() - v.Base
		}
		lid, err := d.LIDs.GetLIDForPN(ctx, v.Peer) // newer versions send to it
		if err != nil {
			return err
		}
		format, _, err := more.GetOutgoingEvent(ctx, v.Peer, lid, fmt.Sprint("SENT", v.Turn-2))
		if err != nil {
			return err
		}
		say("found", fmt.Sprint(nonce.String(), " ", sent, " ", string(salt), " ", format))
		nonce.SetString(fmt.Sprint("nonce", v.Turn))
		f, _ := field(&tok, "SenderTimestamp")
		f.Set(reflect.ValueOf(time.Unix(v.Base-500+int64(v.Turn), 0)))
		if err := more.PutNCTSalt(ctx, fmt.Append(nil, "salt", v.Turn)); err != nil {
			return err
		}
		use, _ := field(c, "UseRetryMessageStore")
		use.SetBool(true)
	}
	d.PushName = fmt.Sprint("name ", v.Turn)
	if err := errors.Join(d.PrivacyTokens.PutPrivacyTokens(ctx, tok), d.Save(ctx)); err != nil {
		return err
	}
	for i := range 3 {
		text := fmt.Sprintf("turn%d.%d", v.Turn, i) // one word: it is noted in a list of words
		extra := whatsmeow.SendRequestExtra{}
		if i == 0 {
			extra.ID = fmt.Sprint("SENT", v.Turn)
		}
		if _, err := c.SendMessage(ctx, v.Peer, &waE2E.Message{Conversation: proto.String(text)}, extra); err != nil {
			return err
		}
		if err := appendLine(v.Sent, text); err != nil {
			return err
		}
	}
	say("done", "")
	return nil
}

const week = 7 * 24 * 60 * 60

// withWhatsmeow builds this test against the whatsmeow in dir.
func withWhatsmeow(t *testing.T, dir string) (binary string) {
	t.Helper()
	tmp := t.TempDir()
	for from, to := range map[string]string{"go.mod": "other.mod", "go.sum": "other.sum"} {
		b, err := os.ReadFile(filepath.Join("..", from))
		require.NoError(t, err)
		require.NotContains(t, string(b), "replace go.mau.fi/whatsmeow", "this is not the pinned version: nothing to take turns with")
		require.NoError(t, os.WriteFile(filepath.Join(tmp, to), b, 0o600))
	}
	mod, binary := filepath.Join(tmp, "other.mod"), filepath.Join(tmp, "other.test")
	for _, args := range [][]string{
		{"mod", "edit", "-replace", "go.mau.fi/whatsmeow=" + dir, mod},
		{"test", "-c", "-mod=mod", "-modfile=" + mod, "-o", binary, "."},
	} {
		out, err := exec.Command("go", args...).CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), out)
	}
	return binary
}

// A rolling deploy from one whatsmeow to another: processes with the pinned and
// with another version take turns on one account. No message is lost, and what
// only the newer one stores outlives the turns of the older.
func TestOldAndNewWhatsmeowTakeTurns(t *testing.T) {
	dir := os.Getenv(whatsmeowEnv)
	if mod, err := os.ReadFile("../go.mod"); dir == "" || err != nil || strings.Contains(string(mod), "replace go.mau.fi/whatsmeow") {
		t.Skip("set " + whatsmeowEnv + " to a checkout of a newer whatsmeow, in a tree with the pinned one")
	}
	if stabilitytest.Race {
		t.Skip("the processes would end by themselves on whatsmeow's own races")
	}
	other := withWhatsmeow(t, dir)
	s := wasim.New(wasim.WithTB(t))
	require.NoError(t, s.Listen())
	account := s.NewAccount("491700000110")
	peer, err := s.NewContact(t.Context(), "491700000111")
	require.NoError(t, err)
	dirs := t.TempDir()
	v := victim{
		Service: s.Endpoint(), File: filepath.Join(dirs, "wa.db"), Peer: peer.JID(),
		Received: filepath.Join(dirs, "received"), Sent: filepath.Join(dirs, "sent"),
		Base: time.Now().Unix()/week*week + 1000, // tokens are renewed by the week, and go when they are four weeks old
	}
	l := v.start(t)
	require.NoError(t, account.Phone().Scan(l.Hears("qr")))
	l.Hears("paired")
	l.Kill()
	hello, err := peer.Send(t.Context(), account.JID(), "hello")
	require.NoError(t, err)
	sent := []string{hello}
	// First contact, one after the other, as in the other tests.
	l = v.start(t)
	l.Hears("connected")
	waitFor(t, "the first message", func() bool { return len(account.Devices()[0].Pending()) == 0 && len(peer.Texts()) > 0 })
	l.Leave()
	for turn := 1; turn <= 6; turn++ {
		v.Turn = turn
		if turn%2 == 1 {
			l = child.StartBinary(t, other, victimEnv, v)
			found := l.Hears("found")
			want := " 0  "
			if turn > 1 {
				want = fmt.Sprintf("nonce%d %d salt%d wa", turn-2, turn-2-500, turn-2)
			}
			require.Equal(t, strings.TrimSpace(want), found)
		} else {
			l = v.start(t)
		}
		l.Hears("done")
		for i := range 3 {
			id, err := peer.Send(t.Context(), account.JID(), fmt.Sprintf("to turn %d.%d", turn, i))
			require.NoError(t, err)
			sent = append(sent, id)
		}
		waitFor(t, "everything is delivered", func() bool { return len(account.Devices()[0].Pending()) == 0 })
		l.Leave()
		l.Silent("undecryptable", "qr", "refused", "error")
	}
	require.Len(t, account.Devices(), 1, "paired once")
	got := child.Recorded(t, v.Received)
	for _, id := range sent {
		require.Positive(t, got[id])
	}
	missing := func() (out []string) {
		texts := peer.Texts()
		for text := range child.Recorded(t, v.Sent) {
			if !slices.Contains(texts, text) {
				out = append(out, text)
			}
		}
		return out
	}
	require.Eventually(t, func() bool { return len(missing()) == 0 }, 20*time.Second, 10*time.Millisecond)
	require.Zero(t, peer.Undecryptable())
	s.Close()
}
