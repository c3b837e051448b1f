package sqlcompare

import (
	"context"
	"encoding/hex"
	"fmt"
	"iter"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"

	"github.com/wastability/wastability/authstore"
)

// slowKV is a KV behind w.
type slowKV struct {
	authstore.KV
	w *way
}

func (k slowKV) Get(ctx context.Context, ks ...authstore.Key) (map[authstore.Key][]byte, error) {
	k.w.trip()
	return k.KV.Get(ctx, ks...)
}

func (k slowKV) Scan(ctx context.Context, kind authstore.Kind, prefix string) iter.Seq2[authstore.Entry, error] {
	return func(yield func(authstore.Entry, error) bool) {
		k.w.trip()
		k.KV.Scan(ctx, kind, prefix)(yield)
	}
}

func (k slowKV) Commit(ctx context.Context, epoch int64, b authstore.Batch) error {
	k.w.trip()
	for _, e := range b.Put {
		k.w.bytes.Add(int64(len(e.Value)))
	}
	return k.KV.Commit(ctx, epoch, b)
}

// naive is a store that makes one call of a KV for each document, keeps nothing
// in memory and knows no transaction, as adapters are often written. What it
// answers comes from an authstore in memory, which costs nothing here; the
// calls that a message makes are paid for, document by document.
type naive struct {
	store.AllStores
	kv    authstore.KV
	epoch int64
}

func (n naive) read(ctx context.Context, kind authstore.Kind, id string) {
	if _, err := n.kv.Get(ctx, authstore.Key{Kind: kind, ID: id}); err != nil {
		panic(err)
	}
}

func (n naive) write(ctx context.Context, kind authstore.Kind, id string, v []byte) {
	b := authstore.Batch{Put: []authstore.Entry{{Key: authstore.Key{Kind: kind, ID: id}, Value: v}}}
	if err := n.kv.Commit(context.WithoutCancel(ctx), n.epoch, b); err != nil {
		panic(err)
	}
}

func (n naive) PutIdentity(ctx context.Context, a string, k [32]byte) error {
	n.write(ctx, "identity", a, k[:])
	return n.AllStores.PutIdentity(ctx, a, k)
}

func (n naive) IsTrustedIdentity(ctx context.Context, a string, k [32]byte) (bool, error) {
	n.read(ctx, "identity", a)
	return n.AllStores.IsTrustedIdentity(ctx, a, k)
}

func (n naive) GetSession(ctx context.Context, a string) ([]byte, error) {
	n.read(ctx, "session", a)
	return n.AllStores.GetSession(ctx, a)
}

func (n naive) HasSession(ctx context.Context, a string) (bool, error) {
	n.read(ctx, "session", a)
	return n.AllStores.HasSession(ctx, a)
}

func (n naive) GetManySessions(ctx context.Context, as []string) (map[string][]byte, error) {
	for _, a := range as {
		n.read(ctx, "session", a)
	}
	return n.AllStores.GetManySessions(ctx, as)
}

func (n naive) PutSession(ctx context.Context, a string, v []byte) error {
	n.write(ctx, "session", a, v)
	return n.AllStores.PutSession(ctx, a, v)
}

func (n naive) PutManySessions(ctx context.Context, vs map[string][]byte) error {
	for a, v := range vs {
		n.write(ctx, "session", a, v)
	}
	return n.AllStores.PutManySessions(ctx, vs)
}

func (n naive) GetPreKey(ctx context.Context, id uint32) (*keys.PreKey, error) {
	n.read(ctx, "prekey", fmt.Sprint(id))
	return n.AllStores.GetPreKey(ctx, id)
}

func (n naive) RemovePreKey(ctx context.Context, id uint32) error {
	n.write(ctx, "prekey", fmt.Sprint(id), nil)
	return n.AllStores.RemovePreKey(ctx, id)
}

func (n naive) GetSenderKey(ctx context.Context, g, u string) ([]byte, error) {
	n.read(ctx, "senderkey", g+u)
	return n.AllStores.GetSenderKey(ctx, g, u)
}

func (n naive) PutSenderKey(ctx context.Context, g, u string, v []byte) error {
	n.write(ctx, "senderkey", g+u, v)
	return n.AllStores.PutSenderKey(ctx, g, u, v)
}

func (n naive) PutPushName(ctx context.Context, u types.JID, name string) (bool, string, error) {
	n.read(ctx, "contact", u.String())
	changed, old, err := n.AllStores.PutPushName(ctx, u, name)
	if changed {
		n.write(ctx, "contact", u.String(), []byte(name))
	}
	return changed, old, err
}

func (n naive) PutMessageSecret(ctx context.Context, c, s types.JID, id types.MessageID, v []byte) error {
	n.write(ctx, "secret", string(id), v)
	return n.AllStores.PutMessageSecret(ctx, c, s, id, v)
}

func (n naive) GetPrivacyToken(ctx context.Context, u types.JID) (*store.PrivacyToken, error) {
	n.read(ctx, "token", u.String())
	return n.AllStores.GetPrivacyToken(ctx, u)
}

func (n naive) GetBufferedEvent(ctx context.Context, h [32]byte) (*store.BufferedEvent, error) {
	n.read(ctx, "event", hex.EncodeToString(h[:]))
	return n.AllStores.GetBufferedEvent(ctx, h)
}

func (n naive) PutBufferedEvent(ctx context.Context, h [32]byte, p []byte, at time.Time) error {
	n.write(ctx, "event", hex.EncodeToString(h[:]), p)
	return n.AllStores.PutBufferedEvent(ctx, h, p, at)
}

func (n naive) ClearBufferedEventPlaintext(ctx context.Context, h [32]byte) error {
	n.write(ctx, "event", hex.EncodeToString(h[:]), nil)
	return n.AllStores.ClearBufferedEventPlaintext(ctx, h)
}

func (n naive) PutLIDMapping(ctx context.Context, l, p types.JID) error {
	n.read(ctx, "lid", l.User)
	return n.AllStores.PutLIDMapping(ctx, l, p)
}

func (n naive) GetPNForLID(ctx context.Context, l types.JID) (types.JID, error) {
	n.read(ctx, "lid", l.User)
	return n.AllStores.GetPNForLID(ctx, l)
}

func (n naive) GetLIDForPN(ctx context.Context, p types.JID) (types.JID, error) {
	n.read(ctx, "lid", p.User)
	return n.AllStores.GetLIDForPN(ctx, p)
}

func (n naive) GetManyLIDsForPNs(ctx context.Context, ps []types.JID) (map[types.JID]types.JID, error) {
	for _, p := range ps {
		n.read(ctx, "lid", p.User)
	}
	return n.AllStores.GetManyLIDsForPNs(ctx, ps)
}

// install puts n in front of what d has.
func (n naive) install(d *store.Device) {
	d.Identities, d.Sessions, d.PreKeys, d.SenderKeys = n, n, n, n
	d.Contacts, d.MsgSecrets, d.PrivacyTokens, d.EventBuffer, d.LIDs = n, n, n, n, n
}
