package authstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Message secrets grow without bound, so they are not held in memory, and they
// are written with every message, so writing reads nothing: the id of the term
// is part of the row's id, and the oldest row of a message counts. That is how
// the first write wins without a look at what is there.

func shortHash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:12])
}

func secretPrefix(id types.MessageID) string { return shortHash(string(id)) + "/" }

func secretKey(chat, sender, id string) [16]byte {
	sum := sha256.Sum256([]byte(chat + "\x00" + sender + "\x00" + id))
	return [16]byte(sum[:16])
}

func (s *deviceStore) PutMessageSecret(ctx context.Context, chat, sender types.JID, id types.MessageID, secret []byte) error {
	return s.PutMessageSecrets(ctx, []store.MessageSecretInsert{{Chat: chat, Sender: sender, ID: id, Secret: secret}})
}

func (s *deviceStore) PutMessageSecrets(ctx context.Context, inserts []store.MessageSecretInsert) error {
	inTxn := s.txnOf(ctx) != nil
	return s.update(ctx, "put message secrets", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		var changes []change
		for _, in := range inserts {
			chat, sender, id := in.Chat.ToNonAD().String(), in.Sender.ToNonAD().String(), string(in.ID)
			key := secretKey(chat, sender, id)
			if s.hasSecret(key, inTxn) {
				continue
			}
			rowID := secretPrefix(in.ID) + shortHash(chat, sender) + "/" + epochID(s.gate.fence.Epoch())
			if inTxn {
				// May yet be rolled back, so it is not noted in secrets.
				if _, ok := get(tSecret, rowID); ok {
					continue
				}
			} else {
				s.secrets[key] = struct{}{}
			}
			value := appendBytes(appendBytes(appendBytes(appendBytes(nil, []byte(chat)), []byte(sender)), []byte(id)), in.Secret)
			changes = append(changes, put(tSecret, rowID, value))
		}
		return changes
	})
}

// hasSecret is called with mu held, except in a transaction.
func (s *deviceStore) hasSecret(key [16]byte, inTxn bool) bool {
	if inTxn {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	_, ok := s.secrets[key]
	return ok
}

// epochID sorts like the epoch.
func epochID(epoch int64) string {
	id := strconv.FormatInt(epoch, 16)
	return strings.Repeat("0", max(16-len(id), 0)) + id
}

// GetMessageSecret looks under the chat and the sender and their other names,
// and gives the sender under which the secret was stored: that one goes into
// the key derivation.
func (s *deviceStore) GetMessageSecret(ctx context.Context, chat, sender types.JID, id types.MessageID) ([]byte, types.JID, error) {
	const op = "get message secret"
	if err := s.ready(op); err != nil {
		return nil, types.EmptyJID, err
	}
	// Memory first: what it drops between the two looks is durable by then.
	rows := make(map[string][]byte)
	s.each(ctx, tSecret, func(rowID string, v []byte) {
		if strings.HasPrefix(rowID, secretPrefix(id)) {
			rows[rowID] = v
		}
	})
	stored, err := s.scan(op, tSecret, secretPrefix(id))
	if err != nil {
		return nil, types.EmptyJID, err
	}
	for _, r := range stored {
		if _, ok := rows[r.row.bucket]; !ok {
			rows[r.row.bucket] = r.data
		}
	}
	type found struct {
		row    string
		secret []byte
	}
	byNames := make(map[[2]string]found)
	for rowID, v := range rows {
		f := fields{b: v}
		c, snd, msg, secret := string(f.bytes()), string(f.bytes()), string(f.bytes()), f.bytes()
		if f.err != nil || msg != string(id) {
			continue
		}
		names := [2]string{c, snd}
		if old, ok := byNames[names]; !ok || rowID < old.row {
			byNames[names] = found{rowID, secret}
		}
	}
	for _, c := range s.namesOf(ctx, chat.ToNonAD()) {
		for _, snd := range s.namesOf(ctx, sender.ToNonAD()) {
			if f, ok := byNames[[2]string{c.String(), snd.String()}]; ok {
				return copyOf(f.secret), snd, nil
			}
		}
	}
	return nil, types.EmptyJID, nil
}

// namesOf is jid and, if known, its other name.
func (s *deviceStore) namesOf(ctx context.Context, jid types.JID) []types.JID {
	out := []types.JID{jid}
	switch jid.Server {
	case types.HiddenUserServer:
		if pn, ok := s.pnOf(ctx, jid.User); ok {
			out = append(out, types.JID{User: pn, Server: types.DefaultUserServer})
		}
	case types.DefaultUserServer:
		if lid, ok := s.lidOf(ctx, jid.User); ok {
			out = append(out, types.JID{User: lid, Server: types.HiddenUserServer})
		}
	}
	return out
}

// A privacy token is stored as its time, the sender's time (newer versions of
// whatsmeow have one) and the token.
const senderTimestamp = "SenderTimestamp"

func tokenValue(t store.PrivacyToken) []byte {
	var sent int64
	if f := reflect.ValueOf(t).FieldByName(senderTimestamp); f.IsValid() {
		if at, ok := f.Interface().(time.Time); ok && !at.IsZero() {
			sent = at.Unix()
		}
	}
	return append(fieldsOf(t.Timestamp.Unix(), sent), t.Token...)
}

func parseToken(b []byte) (t store.PrivacyToken, err error) {
	f := fields{b: b}
	t.Timestamp = time.Unix(f.varint(), 0)
	sent := f.varint()
	if field := reflect.ValueOf(&t).Elem().FieldByName(senderTimestamp); sent != 0 && field.IsValid() {
		if _, ok := field.Interface().(time.Time); ok {
			field.Set(reflect.ValueOf(time.Unix(sent, 0)))
		}
	}
	t.Token = copyOf(f.b)
	return t, f.err
}

// PutPrivacyTokens keeps the newer of two tokens of a user.
func (s *deviceStore) PutPrivacyTokens(ctx context.Context, tokens ...store.PrivacyToken) error {
	return s.update(ctx, "put privacy tokens", soon, func(get func(tableID, string) ([]byte, bool)) []change {
		latest := make(map[string]store.PrivacyToken)
		for _, t := range tokens {
			id := t.User.ToNonAD().String()
			old, ok := latest[id]
			if !ok {
				if v, stored := get(tToken, id); stored {
					if parsed, err := parseToken(v); err == nil {
						old, ok = parsed, true
					}
				}
			}
			if !ok || !t.Timestamp.Before(old.Timestamp) {
				latest[id] = t
			}
		}
		var changes []change
		for id, t := range latest {
			value := tokenValue(t)
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
	var best *store.PrivacyToken
	for _, name := range s.namesOf(ctx, user.ToNonAD()) {
		v, ok := s.get(ctx, tToken, name.String())
		if !ok {
			continue
		}
		t, err := parseToken(v)
		if err == nil && (best == nil || t.Timestamp.After(best.Timestamp)) {
			best = &t
		}
	}
	if best != nil {
		best.User = user.ToNonAD()
	}
	return best, nil
}

// DeleteExpiredPrivacyTokens removes tokens older than cutoff and says how
// many. Newer versions of whatsmeow ask for it.
func (s *deviceStore) DeleteExpiredPrivacyTokens(ctx context.Context, cutoff time.Time) (int64, error) {
	const op = "delete privacy tokens"
	if err := s.ready(op); err != nil {
		return 0, err
	}
	var changes []change
	s.each(ctx, tToken, func(id string, v []byte) {
		if t, err := parseToken(v); err != nil || t.Timestamp.Before(cutoff) {
			changes = append(changes, del(tToken, id))
		}
	})
	return int64(len(changes)), s.later(ctx, op, soon, changes...)
}
