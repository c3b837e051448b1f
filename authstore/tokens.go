package authstore

import (
	"context"
	"reflect"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Trusted-contact tokens. A peer gives us one, and renews it; whatsmeow sends
// it with messages to that peer. Newer versions of whatsmeow also keep when we
// gave the peer one of ours: SenderTimestamp. A renewed token comes without it,
// and must not erase it, or we would give out a token with every message.

// token is a stored token. Times are Unix seconds.
type token struct {
	at    int64
	sent  int64 // 0: never, or not known
	bytes []byte
}

func (t token) value() []byte { return append(fieldsOf(t.at, t.sent), t.bytes...) }

func parseToken(b []byte) (t token, err error) {
	f := fields{b: b}
	t.at, t.sent = f.varint(), f.varint()
	t.bytes = f.b
	return t, f.err
}

// senderTimestamp is the name of a field that older versions of whatsmeow do
// not have.
const senderTimestamp = "SenderTimestamp"

func tokenOf(p store.PrivacyToken) token {
	t := token{at: p.Timestamp.Unix(), bytes: p.Token}
	if f := reflect.ValueOf(p).FieldByName(senderTimestamp); f.IsValid() {
		// A history sync says 1970 when it means never.
		if at, ok := f.Interface().(time.Time); ok && at.Unix() > 0 {
			t.sent = at.Unix()
		}
	}
	return t
}

func (t token) of(user types.JID) *store.PrivacyToken {
	p := &store.PrivacyToken{User: user, Token: copyOf(t.bytes), Timestamp: time.Unix(t.at, 0)}
	if f := reflect.ValueOf(p).Elem().FieldByName(senderTimestamp); t.sent != 0 && f.IsValid() {
		if _, ok := f.Interface().(time.Time); ok {
			f.Set(reflect.ValueOf(time.Unix(t.sent, 0)))
		}
	}
	return p
}

// PutPrivacyTokens keeps the newer of two tokens of a user, and the sender's
// time where the new one has none.
func (s *deviceStore) PutPrivacyTokens(ctx context.Context, tokens ...store.PrivacyToken) error {
	return s.update(ctx, "put privacy tokens", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		values := make(map[string][]byte)
		for _, p := range tokens {
			id, t := p.User.ToNonAD().String(), tokenOf(p)
			stored, ok := values[id]
			if !ok {
				stored, ok = get(tToken, id)
			}
			if old, err := parseToken(stored); ok && err == nil {
				if t.at < old.at {
					continue
				}
				if t.sent == 0 {
					t.sent = old.sent
				}
			}
			values[id] = t.value()
		}
		var changes []change
		for id, value := range values {
			if old, ok := get(tToken, id); !same(old, ok, value) {
				changes = append(changes, put(tToken, id, value))
			}
		}
		return changes
	})
}

// GetPrivacyToken gives the newest token of user under either name.
func (s *deviceStore) GetPrivacyToken(ctx context.Context, user types.JID) (*store.PrivacyToken, error) {
	if err := s.ready("get privacy token"); err != nil {
		return nil, err
	}
	var best *token
	for _, name := range s.namesOf(ctx, user.ToNonAD()) {
		v, ok := s.get(ctx, tToken, name.String())
		if !ok {
			continue
		}
		if t, err := parseToken(v); err == nil && (best == nil || t.at > best.at) {
			best = &t
		}
	}
	if best == nil {
		return nil, nil
	}
	return best.of(user.ToNonAD()), nil
}

// DeleteExpiredPrivacyTokens removes tokens older than cutoff and says how
// many. Newer versions of whatsmeow ask for it, beside everything else.
func (s *deviceStore) DeleteExpiredPrivacyTokens(ctx context.Context, cutoff time.Time) (int64, error) {
	const op = "delete privacy tokens"
	if err := s.ready(op); err != nil {
		return 0, err
	}
	expired := func(v []byte) bool {
		t, err := parseToken(v)
		return err != nil || t.at < cutoff.Unix()
	}
	var ids []string
	s.each(ctx, tToken, func(id string, v []byte) {
		if expired(v) {
			ids = append(ids, id)
		}
	})
	var n int64
	err := s.update(ctx, op, soon, func(get func(tableID, string) ([]byte, bool)) (changes []change) {
		for _, id := range ids {
			if v, ok := get(tToken, id); ok && expired(v) { // not renewed meanwhile
				changes = append(changes, del(tToken, id))
			}
		}
		n = int64(len(changes))
		return changes
	})
	return n, err
}
