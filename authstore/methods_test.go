package authstore

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// The store interfaces of whatsmeow at 2026-08-21, as far as they have more
// than those of 2025-12-17.
type (
	newestAppStateSyncKeyStore interface {
		store.AppStateSyncKeyStore
		GetAllAppStateSyncKeys(ctx context.Context) ([]*store.AppStateSyncKey, error)
	}
	newestPrivacyTokenStore interface {
		PutPrivacyTokens(ctx context.Context, tokens ...store.PrivacyToken) error
		GetPrivacyToken(ctx context.Context, user types.JID) (*store.PrivacyToken, error)
		DeleteExpiredPrivacyTokens(ctx context.Context, cutoff time.Time) (int64, error)
	}
	newestNCTSaltStore interface {
		PutNCTSalt(ctx context.Context, salt []byte) error
		GetNCTSalt(ctx context.Context) ([]byte, error)
		DeleteNCTSalt(ctx context.Context) error
	}
	newestEventBuffer interface {
		GetBufferedEvent(ctx context.Context, ciphertextHash [32]byte) (*store.BufferedEvent, error)
		PutBufferedEvent(ctx context.Context, ciphertextHash [32]byte, plaintext []byte, serverTimestamp time.Time) error
		DoDecryptionTxn(ctx context.Context, fn func(context.Context) error) error
		ClearBufferedEventPlaintext(ctx context.Context, ciphertextHash [32]byte) error
		DeleteOldBufferedHashes(ctx context.Context) error
		GetOutgoingEvent(ctx context.Context, chat, altChat types.JID, id types.MessageID) (string, []byte, error)
		AddOutgoingEvent(ctx context.Context, chat types.JID, id types.MessageID, format string, plaintext []byte) error
		DeleteOldOutgoingEvents(ctx context.Context) error
	}
)

func is[T any](v any) bool { _, ok := v.(T); return ok }

func TestStoreHasMethodsOfNewestWhatsmeow(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	for name, s := range map[string]any{"keys": d.AppStateKeys, "tokens": d.PrivacyTokens, "events": d.EventBuffer} {
		for what, ok := range map[string]bool{
			"keys": is[newestAppStateSyncKeyStore](s), "tokens": is[newestPrivacyTokenStore](s),
			"salt": is[newestNCTSaltStore](s), "events": is[newestEventBuffer](s), "all": is[store.AllStores](s),
		} {
			require.True(t, ok, "%s: %s", name, what)
		}
	}
}
