package wasim

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// newerStore is what newer versions of whatsmeow ask of a store beyond the
// pinned version, written by hand.
type newerStore interface {
	GetAllAppStateSyncKeys(ctx context.Context) ([]*store.AppStateSyncKey, error)
	DeleteExpiredPrivacyTokens(ctx context.Context, cutoff time.Time) (int64, error)
	PutNCTSalt(ctx context.Context, salt []byte) error
	GetNCTSalt(ctx context.Context) ([]byte, error)
	DeleteNCTSalt(ctx context.Context) error
	GetOutgoingEvent(ctx context.Context, chatJID, altChatJID types.JID, id types.MessageID) (string, []byte, error)
	AddOutgoingEvent(ctx context.Context, chatJID types.JID, id types.MessageID, format string, plaintext []byte) error
	DeleteOldOutgoingEvents(ctx context.Context) error
}

func TestMemoryStoreHasNewerMethods(t *testing.T) {
	ctx := t.Context()
	m := newMemStore()
	var s newerStore = m

	for i, at := range []int64{2, 3, 1} {
		require.NoError(t, m.PutAppStateSyncKey(ctx, []byte{byte(i)}, store.AppStateSyncKey{Timestamp: at}))
	}
	all, err := s.GetAllAppStateSyncKeys(ctx)
	require.NoError(t, err)
	require.Equal(t, []int64{3, 2, 1}, []int64{all[0].Timestamp, all[1].Timestamp, all[2].Timestamp}, "newest first")

	alice, bob := types.NewJID("1", types.DefaultUserServer), types.NewJID("2", types.HiddenUserServer)
	now := time.Now()
	require.NoError(t, m.PutPrivacyTokens(ctx,
		store.PrivacyToken{User: alice, Token: []byte("old"), Timestamp: now.Add(-time.Hour)},
		store.PrivacyToken{User: bob, Token: []byte("new"), Timestamp: now}))
	n, err := s.DeleteExpiredPrivacyTokens(ctx, now)
	require.NoError(t, err)
	require.EqualValues(t, 1, n)
	kept, err := m.GetPrivacyToken(ctx, bob)
	require.NoError(t, err)
	require.Equal(t, "new", string(kept.Token))

	require.NoError(t, s.PutNCTSalt(ctx, []byte("salt")))
	salt, err := s.GetNCTSalt(ctx)
	require.NoError(t, err)
	require.Equal(t, "salt", string(salt))
	require.NoError(t, s.DeleteNCTSalt(ctx))
	salt, err = s.GetNCTSalt(ctx)
	require.NoError(t, err)
	require.Empty(t, salt)

	require.NoError(t, s.AddOutgoingEvent(ctx, alice, "id", "e2e", []byte("plain")))
	format, plain, err := s.GetOutgoingEvent(ctx, bob, alice, "id")
	require.NoError(t, err)
	require.Equal(t, "e2e", format)
	require.Equal(t, "plain", string(plain))
	require.NoError(t, s.DeleteOldOutgoingEvents(ctx))
	_, plain, err = s.GetOutgoingEvent(ctx, alice, types.EmptyJID, "id")
	require.NoError(t, err)
	require.NotEmpty(t, plain, "a week has not passed")
	format, plain, err = s.GetOutgoingEvent(ctx, bob, types.EmptyJID, "id")
	require.NoError(t, err)
	require.Empty(t, format)
	require.Nil(t, plain)
}
