// Package naive has a store for whatsmeow as adapters for document databases are
// often written: one call for each document, nothing kept in memory, no
// transaction. Benchmarks measure others against it; nothing else uses it.
package naive

import (
	"context"
	"encoding/hex"
	"fmt"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

// Store pays for the calls that a message makes, document by document: Read and
// Write get what they concern, and panic if they fail. Its
// answers come from AllStores, which should cost nothing.
type Store struct {
	store.AllStores
	Read  func(ctx context.Context, kind, id string)
	Write func(ctx context.Context, kind, id string, v []byte)
}

// Install puts s in front of what d has.
func (s Store) Install(d *store.Device) {
	d.Identities, d.Sessions, d.PreKeys, d.SenderKeys = s, s, s, s
	d.Contacts, d.MsgSecrets, d.PrivacyTokens, d.EventBuffer, d.LIDs = s, s, s, s, s
}

func (s Store) PutIdentity(ctx context.Context, a string, k [32]byte) error {
	s.Write(ctx, "identity", a, k[:])
	return s.AllStores.PutIdentity(ctx, a, k)
}

func (s Store) IsTrustedIdentity(ctx context.Context, a string, k [32]byte) (bool, error) {
	s.Read(ctx, "identity", a)
	return s.AllStores.IsTrustedIdentity(ctx, a, k)
}

func (s Store) GetSession(ctx context.Context, a string) ([]byte, error) {
	s.Read(ctx, "session", a)
	return s.AllStores.GetSession(ctx, a)
}

func (s Store) HasSession(ctx context.Context, a string) (bool, error) {
	s.Read(ctx, "session", a)
	return s.AllStores.HasSession(ctx, a)
}

func (s Store) GetManySessions(ctx context.Context, as []string) (map[string][]byte, error) {
	for _, a := range as {
		s.Read(ctx, "session", a)
	}
	return s.AllStores.GetManySessions(ctx, as)
}

func (s Store) PutSession(ctx context.Context, a string, v []byte) error {
	s.Write(ctx, "session", a, v)
	return s.AllStores.PutSession(ctx, a, v)
}

func (s Store) PutManySessions(ctx context.Context, vs map[string][]byte) error {
	for a, v := range vs {
		s.Write(ctx, "session", a, v)
	}
	return s.AllStores.PutManySessions(ctx, vs)
}

func (s Store) GetPreKey(ctx context.Context, id uint32) (*keys.PreKey, error) {
	s.Read(ctx, "prekey", fmt.Sprint(id))
	return s.AllStores.GetPreKey(ctx, id)
}

func (s Store) RemovePreKey(ctx context.Context, id uint32) error {
	s.Write(ctx, "prekey", fmt.Sprint(id), nil)
	return s.AllStores.RemovePreKey(ctx, id)
}

func (s Store) GetSenderKey(ctx context.Context, g, u string) ([]byte, error) {
	s.Read(ctx, "senderkey", g+u)
	return s.AllStores.GetSenderKey(ctx, g, u)
}

func (s Store) PutSenderKey(ctx context.Context, g, u string, v []byte) error {
	s.Write(ctx, "senderkey", g+u, v)
	return s.AllStores.PutSenderKey(ctx, g, u, v)
}

func (s Store) PutPushName(ctx context.Context, u types.JID, name string) (bool, string, error) {
	s.Read(ctx, "contact", u.String())
	changed, old, err := s.AllStores.PutPushName(ctx, u, name)
	if changed {
		s.Write(ctx, "contact", u.String(), []byte(name))
	}
	return changed, old, err
}

func (s Store) PutMessageSecret(ctx context.Context, c, from types.JID, id types.MessageID, v []byte) error {
	s.Write(ctx, "secret", string(id), v)
	return s.AllStores.PutMessageSecret(ctx, c, from, id, v)
}

func (s Store) GetPrivacyToken(ctx context.Context, u types.JID) (*store.PrivacyToken, error) {
	s.Read(ctx, "token", u.String())
	return s.AllStores.GetPrivacyToken(ctx, u)
}

func (s Store) GetBufferedEvent(ctx context.Context, h [32]byte) (*store.BufferedEvent, error) {
	s.Read(ctx, "event", hex.EncodeToString(h[:]))
	return s.AllStores.GetBufferedEvent(ctx, h)
}

func (s Store) PutBufferedEvent(ctx context.Context, h [32]byte, p []byte, at time.Time) error {
	s.Write(ctx, "event", hex.EncodeToString(h[:]), p)
	return s.AllStores.PutBufferedEvent(ctx, h, p, at)
}

func (s Store) ClearBufferedEventPlaintext(ctx context.Context, h [32]byte) error {
	s.Write(ctx, "event", hex.EncodeToString(h[:]), nil)
	return s.AllStores.ClearBufferedEventPlaintext(ctx, h)
}

func (s Store) PutLIDMapping(ctx context.Context, l, p types.JID) error {
	s.Read(ctx, "lid", l.User)
	return s.AllStores.PutLIDMapping(ctx, l, p)
}

func (s Store) GetPNForLID(ctx context.Context, l types.JID) (types.JID, error) {
	s.Read(ctx, "lid", l.User)
	return s.AllStores.GetPNForLID(ctx, l)
}

func (s Store) GetLIDForPN(ctx context.Context, p types.JID) (types.JID, error) {
	s.Read(ctx, "lid", p.User)
	return s.AllStores.GetLIDForPN(ctx, p)
}

func (s Store) GetManyLIDsForPNs(ctx context.Context, ps []types.JID) (map[types.JID]types.JID, error) {
	for _, p := range ps {
		s.Read(ctx, "lid", p.User)
	}
	return s.AllStores.GetManyLIDsForPNs(ctx, ps)
}
