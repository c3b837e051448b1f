package sqlcompare

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"pgregory.net/rapid"
)

// newest is what versions of whatsmeow after the pinned one ask of a store.
type newest interface {
	GetAllAppStateSyncKeys(ctx context.Context) ([]*store.AppStateSyncKey, error)
	DeleteExpiredPrivacyTokens(ctx context.Context, cutoff time.Time) (int64, error)
	PutNCTSalt(ctx context.Context, salt []byte) error
	GetNCTSalt(ctx context.Context) ([]byte, error)
	DeleteNCTSalt(ctx context.Context) error
	GetOutgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (string, []byte, error)
	AddOutgoingEvent(ctx context.Context, chat types.JID, id types.MessageID, format string, plaintext []byte) error
	DeleteOldOutgoingEvents(ctx context.Context) error
}

// newestActions compares those methods where sqlstore has them.
func (s *sides) newestActions() []func() {
	if _, ok := any(s.theirs.EventBuffer).(newest); !ok {
		return nil
	}
	ctx := context.Background()
	both := func() (ours, theirs newest) {
		return any(s.ours.EventBuffer).(newest), any(s.theirs.EventBuffer).(newest)
	}
	id := func() string { return fmt.Sprint("ID", rapid.IntRange(0, 3).Draw(s.t, "id")) }
	chats := []types.JID{users[0], users[2], users[5]}
	base := time.Now().Unix() - 1000 // young enough to be kept, and older than those of the other actions
	return []func(){
		func() {
			u, v := both()
			x, e1 := u.GetAllAppStateSyncKeys(ctx)
			y, e2 := v.GetAllAppStateSyncKeys(ctx)
			require.Len(s.t, x, len(y))
			for i := range x { // of one time in either order
				agree(s, "GetAllAppStateSyncKeys", x[i].Timestamp, y[i].Timestamp, e1, e2)
			}
			require.ElementsMatch(s.t, y, x)
		},
		func() { // older ones too, with and without a sender's time
			u := pick(s, "user", users[:4]).ToNonAD()
			tok := store.PrivacyToken{User: u, Token: s.bytes("token"), Timestamp: time.Unix(base+int64(rapid.IntRange(0, 5).Draw(s.t, "at")*10+len(u.User)%10), 0)}
			if rapid.Bool().Draw(s.t, "sent") {
				reflect.ValueOf(&tok).Elem().FieldByName("SenderTimestamp").Set(reflect.ValueOf(time.Unix(base-5, 0)))
			}
			agree(s, "PutPrivacyTokens", 0, 0, s.ours.PrivacyTokens.PutPrivacyTokens(ctx, tok), s.theirs.PrivacyTokens.PutPrivacyTokens(ctx, tok))
		},
		func() {
			u, v := both()
			cutoff := time.Unix(base+int64(rapid.IntRange(0, 60).Draw(s.t, "cutoff")), 300)
			x, e1 := u.DeleteExpiredPrivacyTokens(ctx, cutoff)
			y, e2 := v.DeleteExpiredPrivacyTokens(ctx, cutoff)
			agree(s, "DeleteExpiredPrivacyTokens", x, y, e1, e2)
		},
		func() {
			u, v := both()
			salt := s.bytes("salt")
			agree(s, "PutNCTSalt", 0, 0, u.PutNCTSalt(ctx, salt), v.PutNCTSalt(ctx, salt))
		},
		func() {
			u, v := both()
			agree(s, "DeleteNCTSalt", 0, 0, u.DeleteNCTSalt(ctx), v.DeleteNCTSalt(ctx))
		},
		func() {
			u, v := both()
			x, e1 := u.GetNCTSalt(ctx)
			y, e2 := v.GetNCTSalt(ctx)
			agree(s, "GetNCTSalt", x, y, e1, e2)
		},
		func() {
			u, v := both()
			chat, id, text := pick(s, "chat", chats), id(), s.bytes("plaintext")
			agree(s, "AddOutgoingEvent", 0, 0, u.AddOutgoingEvent(ctx, chat, id, "wa", text), v.AddOutgoingEvent(ctx, chat, id, "wa", text))
		},
		func() { // a message stands under one chat; missing is an error of sqlstore's alone
			u, v := both()
			chat, alt, id := pick(s, "chat", chats[:1]), pick(s, "alternative", []types.JID{{}, users[1]}), id()
			format, x, e1 := u.GetOutgoingEvent(ctx, chat, alt, id)
			require.NoError(s.t, e1)
			wanted, y, e2 := v.GetOutgoingEvent(ctx, chat, alt, id)
			require.Equal(s.t, e2 != nil, format == "")
			require.Equal(s.t, wanted, format)
			require.Equal(s.t, y, x)
		},
		func() {
			u, v := both()
			agree(s, "DeleteOldOutgoingEvents", 0, 0, u.DeleteOldOutgoingEvents(ctx), v.DeleteOldOutgoingEvents(ctx))
		},
	}
}
