package authstore

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

// Each line above debug names no number, no group and no message, and
// nothing at all is logged of keys and contents.
func TestLogLinesAboveDebugNameNobody(t *testing.T) {
	const number, group, content = "4915550001234", "120363041234567890", "the secret words"
	var lines bytes.Buffer
	kv := newMapKV()
	opts := []Option{WithLogger(slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelInfo})))}
	c, d, _ := open(t, kv, opts...)
	user, chat := types.NewJID(number, types.DefaultUserServer), types.NewJID(group, types.GroupServer)
	require.NoError(t, d.Sessions.PutSession(bg, number+":0", validSession(t, 1)))
	require.NoError(t, d.Sessions.PutSession(bg, number+":1", []byte(content)))
	require.NoError(t, d.SenderKeys.PutSenderKey(bg, chat.String(), number+":0", []byte(content)))
	require.NoError(t, d.EventBuffer.PutBufferedEvent(bg, [32]byte{1}, []byte(content), time.Unix(5, 0)))
	require.NoError(t, d.MsgSecrets.PutMessageSecret(bg, chat, user, "ID", []byte(content)))
	_, _, err := d.Contacts.PutPushName(bg, user, content)
	require.NoError(t, err)
	require.NoError(t, c.Close(bg))
	for k, v := range kv.data { // everything that may be damaged is
		if k.Kind != "account" && k.Kind != "device" && k.ID != "d0/"+number+":1" && k.Kind != "senderkey" {
			kv.data[k] = v[:len(v)-1]
		}
	}
	kv.setEpoch(2)
	c, d, _ = open(t, kv, opts...)
	for _, addr := range []string{number + ":0", number + ":1"} {
		_, err = d.Sessions.GetSession(bg, addr)
		require.NoError(t, err)
	}
	_, err = d.SenderKeys.GetSenderKey(bg, chat.String(), number+":0")
	require.NoError(t, err)
	_, _, err = d.MsgSecrets.GetMessageSecret(bg, chat, user, "ID")
	require.NoError(t, err)
	kv.before.set(func(op string, b Batch) error {
		for _, e := range b.Put {
			if e.Key.Kind == "contact" {
				return ErrTooLarge
			}
		}
		return nil
	})
	_, _, err = d.Contacts.PutPushName(bg, user, content)
	require.NoError(t, err)
	require.NoError(t, c.Close(bg))
	require.GreaterOrEqual(t, strings.Count(lines.String(), "a damaged row was set aside"), 4)
	require.Contains(t, lines.String(), "the backend refused a row; its change is in memory only\" kind=refused")
	for _, private := range []string{number, group, content} {
		require.NotContains(t, lines.String(), private)
	}

	// whatsmeow's own lines: what it says as information may name anybody.
	lines.Reset()
	log := slogAdapter{slog.New(slog.NewTextHandler(&lines, &slog.HandlerOptions{Level: slog.LevelInfo}))}
	log.Sub("Store").Infof("Migrated %s", number)
	log.Debugf("Migrated %s", number)
	require.Empty(t, lines.String())
	require.False(t, log.l.Enabled(context.Background(), slog.LevelDebug))
	log.Warnf("it is %s", "late")
	log.Errorf("it is %s", "late")
	require.Equal(t, 1, strings.Count(lines.String(), "level=WARN"))
	require.Equal(t, 1, strings.Count(lines.String(), "level=ERROR"))
}
