package authstore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// Message secrets grow without bound, so they are not held in memory, and they
// are written with every message, so writing reads nothing: the id of the term
// is part of the row's id, and the oldest row of a message counts. So the
// first write wins without a look at the rows that are there.
//
// A message often comes with its secret twice, so the last ones written are
// remembered, in two halves: when the younger one is full, it becomes the older
// one, and that one is forgotten. A forgotten secret that comes again gets a row
// of its own: the row's id also counts the halves and the devices of the term.
//
// The secret of a message that a Manager follows is written with the decrypted
// message (SecretDelivery), so whatsmeow's own write of it finds it in memory.

// knownSecrets is how many secrets a half remembers.
const knownSecrets = 1 << 14

// writtenSecrets are the message secrets that this device wrote last.
type writtenSecrets struct {
	younger, older map[[16]byte]struct{}
	turn           int64 // tells rows of one term apart: a later one has a higher number
}

func newWrittenSecrets(turn int64) writtenSecrets {
	return writtenSecrets{younger: make(map[[16]byte]struct{}), turn: turn}
}

func (w *writtenSecrets) has(key [16]byte) bool {
	_, younger := w.younger[key]
	_, older := w.older[key]
	return younger || older
}

// add remembers key; nextTurn is called when others are forgotten for it.
func (w *writtenSecrets) add(key [16]byte, nextTurn func() int64) {
	if len(w.younger) >= knownSecrets {
		*w = writtenSecrets{younger: make(map[[16]byte]struct{}), older: w.younger, turn: nextTurn()}
	}
	w.younger[key] = struct{}{}
}

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
		now := time.Now().Unix()
		for _, in := range inserts {
			chat, sender, id := in.Chat.ToNonAD().String(), in.Sender.ToNonAD().String(), string(in.ID)
			key := secretKey(chat, sender, id)
			known, turn := s.hasSecret(key, inTxn)
			if known {
				continue
			}
			rowID := secretPrefix(in.ID) + shortHash(chat, sender) + "/" + epochID(s.gate.fence.Epoch()) + turnID(turn)
			_, there := get(tSecret, rowID)
			if !inTxn { // else it may yet be rolled back
				s.secrets.add(key, s.cfg.nextSecretTurn)
			}
			if there {
				continue
			}
			value := appendBytes(appendBytes(appendBytes(appendBytes(nil, []byte(chat)), []byte(sender)), []byte(id)), in.Secret)
			value = binary.AppendVarint(value, now)
			changes = append(changes, put(tSecret, rowID, value))
		}
		return changes
	})
}

// hasSecret is called with mu held, except in a transaction.
func (s *deviceStore) hasSecret(key [16]byte, inTxn bool) (known bool, turn int64) {
	if inTxn {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	known, turn = s.secrets.has(key), s.secrets.turn
	return known, turn
}

// epochID sorts like the epoch.
func epochID(epoch int64) string {
	id := strconv.FormatInt(epoch, 16)
	return strings.Repeat("0", max(16-len(id), 0)) + id
}

// turnID sorts like the turn, behind the id of its epoch.
func turnID(turn int64) string {
	if turn == 0 {
		return ""
	}
	return "." + epochID(turn)
}

// GetMessageSecret looks under the chat and the sender and their other names,
// and gives the sender under which the secret was stored: that one goes into
// the key derivation.
func (s *deviceStore) GetMessageSecret(ctx context.Context, chat, sender types.JID, id types.MessageID) ([]byte, types.JID, error) {
	const op = "get message secret"
	if err := s.ready(op); err != nil {
		return nil, types.EmptyJID, err
	}
	// Memory first: a row that it drops between the two looks is durable by then.
	rows := make(map[string][]byte)
	s.each(ctx, tSecret, func(rowID string, v []byte) {
		if strings.HasPrefix(rowID, secretPrefix(id)) {
			rows[rowID] = v
		}
	})
	stored, err := s.scan(s.some(), op, tSecret, secretPrefix(id))
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
