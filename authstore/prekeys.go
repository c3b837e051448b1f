package authstore

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"filippo.io/edwards25519"
	"go.mau.fi/whatsmeow/util/keys"
)

// One-time prekeys. The id counter is a row of its own and only goes up, so an
// id that was ever offered is not offered again with another key; it wraps
// where the wire's 24 bits end and then steps over what still exists.

const (
	firstPreKey = 1
	lastPreKey  = 1<<24 - 2 // 2^24-1 means "no prekey" to libsignal
	nextPreKey  = "next_prekey"

	preKeyFresh    = 0 // not uploaded
	preKeyUploaded = 1
	preKeyHeld     = 2 // from a backup: it decrypts, but is neither offered nor counted

	// Keys that the service gave out and whose messages never came would add up for
	// ever. The service holds the last thousand at most. A message that comes with
	// an older key than these is asked for once more, and comes with a new one.
	keptPreKeys = 10_000
	fewPreKeys  = 512 // are removed with one commit, beside which they are small
)

func preKeyID(id uint32) string { return fmt.Sprintf("%06x", id) }

type storedPreKey struct {
	id       uint32
	uploaded bool
	value    []byte
}

// preKeys lists what there is, oldest first, and the next id.
func (s *deviceStore) preKeys(ctx context.Context) (list []storedPreKey, next uint32) {
	next = firstPreKey
	if v, ok := s.get(ctx, tMisc, nextPreKey); ok && len(v) == 4 {
		next = binary.LittleEndian.Uint32(v)
	}
	s.each(ctx, tPreKey, func(id string, v []byte) {
		n, err := strconv.ParseUint(id, 16, 32)
		if err == nil && len(v) == 33 {
			list = append(list, storedPreKey{uint32(n), v[0] != preKeyFresh, v})
		}
	})
	// Ids at or above next are from before the wrap, so they are the oldest.
	slices.SortFunc(list, func(a, b storedPreKey) int { return cmp.Compare(rank(a.id, next), rank(b.id, next)) })
	return list, next
}

func rank(id, next uint32) uint64 {
	if id >= next {
		return uint64(id)
	}
	return uint64(id) + 1<<32
}

func (k storedPreKey) key() *keys.PreKey {
	return &keys.PreKey{KeyPair: *keys.NewKeyPairFromPrivateKey([32]byte(k.value[1:])), KeyID: k.id}
}

func preKeyValue(key *keys.PreKey, state byte) []byte {
	return append([]byte{state}, key.Priv[:]...)
}

// newPreKey makes the same keys as whatsmeow's keys.NewPreKey in half of the
// time: the multiples of the base point are in a table, and the point is then
// read as one of Curve25519. A pairing makes 812 of them.
func newPreKey(id uint32) *keys.PreKey {
	var priv, pub [32]byte
	_, _ = rand.Read(priv[:]) // ends the program if it fails
	priv[0] &= 248
	priv[31] = priv[31]&127 | 64
	scalar, err := new(edwards25519.Scalar).SetBytesWithClamping(priv[:])
	if err != nil {
		return keys.NewPreKey(id) // only for another length
	}
	copy(pub[:], new(edwards25519.Point).ScalarBaseMult(scalar).BytesMontgomery())
	return &keys.PreKey{KeyPair: keys.KeyPair{Priv: &priv, Pub: &pub}, KeyID: id}
}

// generate makes n new keys and the changes that store them.
func generate(list []storedPreKey, next uint32, n int, state byte) (out []*keys.PreKey, changes []change, err error) {
	taken := make(map[uint32]struct{}, len(list))
	for _, k := range list {
		taken[k.id] = struct{}{}
	}
	if len(list)+n > lastPreKey {
		return nil, nil, fmt.Errorf("authstore: %d prekeys asked for, %d exist: there are not that many ids", n, len(list))
	}
	for len(out) < n {
		if next > lastPreKey || next < firstPreKey {
			next = firstPreKey
		}
		if _, ok := taken[next]; !ok {
			key := newPreKey(next)
			out = append(out, key)
			changes = append(changes, put(tPreKey, preKeyID(next), preKeyValue(key, state)))
		}
		next++
	}
	if len(changes) > 0 {
		changes = append(changes, put(tMisc, nextPreKey, binary.LittleEndian.AppendUint32(nil, next)))
	}
	return out, changes, nil
}

// GetOrGenPreKeys gives count keys that are not uploaded, the ones that exist
// first.
func (s *deviceStore) GetOrGenPreKeys(ctx context.Context, count uint32) ([]*keys.PreKey, error) {
	const op = "get prekeys"
	if err := s.acquire(ctx, op, s.prekeySem); err != nil {
		return nil, err
	}
	defer func() { <-s.prekeySem }()
	list, next := s.preKeys(ctx)
	out := make([]*keys.PreKey, 0, count)
	for _, k := range list {
		if !k.uploaded && len(out) < int(count) {
			out = append(out, k.key())
		}
	}
	fresh, changes, err := generate(list, next, int(count)-len(out), preKeyFresh)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, op, changes...); err != nil {
		return nil, err
	}
	return append(out, fresh...), nil
}

// GenOnePreKey makes one key for a retry receipt; it counts as uploaded.
func (s *deviceStore) GenOnePreKey(ctx context.Context) (*keys.PreKey, error) {
	const op = "generate prekey"
	if err := s.acquire(ctx, op, s.prekeySem); err != nil {
		return nil, err
	}
	defer func() { <-s.prekeySem }()
	list, next := s.preKeys(ctx)
	fresh, changes, err := generate(list, next, 1, preKeyUploaded)
	if err != nil {
		return nil, err
	}
	if err := s.write(ctx, op, changes...); err != nil {
		return nil, err
	}
	return fresh[0], nil
}

func (s *deviceStore) GetPreKey(ctx context.Context, id uint32) (*keys.PreKey, error) {
	if err := s.ready("get prekey"); err != nil {
		return nil, err
	}
	v, ok := s.get(ctx, tPreKey, preKeyID(id))
	if !ok || len(v) != 33 {
		return nil, nil
	}
	return storedPreKey{id: id, value: v}.key(), nil
}

func (s *deviceStore) RemovePreKey(ctx context.Context, id uint32) error {
	const op = "remove prekey"
	if _, ok := s.get(ctx, tPreKey, preKeyID(id)); !ok {
		return s.ready(op)
	}
	return s.write(ctx, op, del(tPreKey, preKeyID(id)))
}

// MarkPreKeysAsUploaded marks upToID and all that are older.
func (s *deviceStore) MarkPreKeysAsUploaded(ctx context.Context, upToID uint32) error {
	const op = "mark prekeys as uploaded"
	if err := s.acquire(ctx, op, s.prekeySem); err != nil {
		return err
	}
	defer func() { <-s.prekeySem }()
	list, next := s.preKeys(ctx)
	limit := rank(upToID, next)
	if wrapped := len(list) > 0 && list[0].id >= next; !wrapped {
		limit = uint64(upToID) + 1<<32
	}
	var changes []change
	for _, k := range list {
		if !k.uploaded && rank(k.id, next) <= limit {
			changes = append(changes, put(tPreKey, preKeyID(k.id), append([]byte{preKeyUploaded}, k.value[1:]...)))
		}
	}
	if len(changes) == 0 {
		return s.ready(op)
	}
	if err := s.write(ctx, op, append(changes, tooOld(list)...)...); err != nil {
		return err
	}
	s.loggedIn()
	return nil
}

// tooOld removes the oldest keys, some at a time, down to those that are kept.
func tooOld(list []storedPreKey) (changes []change) {
	for _, k := range list[:min(max(len(list)-keptPreKeys, 0), fewPreKeys)] {
		if k.uploaded {
			changes = append(changes, del(tPreKey, preKeyID(k.id)))
		}
	}
	return changes
}

func (s *deviceStore) UploadedPreKeyCount(ctx context.Context) (int, error) {
	if err := s.ready("count prekeys"); err != nil {
		return 0, err
	}
	n := 0
	s.each(ctx, tPreKey, func(_ string, v []byte) {
		if len(v) > 0 && v[0] == preKeyUploaded {
			n++
		}
	})
	return n, nil
}
