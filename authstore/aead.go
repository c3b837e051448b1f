package authstore

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// AEAD seals values. Its methods are those of Tink's interface, so keys in
// Tink or a cloud KMS fit. Associated data is the path of the value: a sealed
// row cannot be moved to another key.
//
// An error of Decrypt that matches ErrCorrupt says that the key is right and
// the ciphertext is not: that row is set aside. Any other error counts as
// ErrWrongKey: it is returned, and the row is left as it is. Decrypt is not
// repeated, so an AEAD that asks a service should do that itself.
type AEAD interface {
	Encrypt(plaintext, associatedData []byte) ([]byte, error)
	Decrypt(ciphertext, associatedData []byte) ([]byte, error)
}

// An AEAD may also say whether a ciphertext is sealed with the key that it
// would use now. Reseal then leaves it alone; without this method it seals
// every value anew.
type currentKey interface {
	Current(ciphertext []byte) bool
}

// NewAESGCM is an AEAD from 32-byte keys: AES-256-GCM with a random nonce for
// every value. It seals with key, and opens values that were sealed with key
// or with one of old. The id of its key stands in front of each value, so that
// a missing key is told from damage. One key is good for 2^32 writes.
//
// To change keys: pass the new one first and the old ones behind it, call
// Container.Reseal, and drop the old ones when it has returned nil.
func NewAESGCM(key [32]byte, old ...[32]byte) AEAD {
	a := aesGCM{primary: newGCMKey(key)}
	seen := make(map[[32]byte]bool)
	for _, k := range append([][32]byte{key}, old...) {
		if seen[k] {
			continue
		}
		seen[k] = true
		next := newGCMKey(k)
		a.shared = a.shared || len(a.all) > 0 && next.id == a.primary.id
		a.all = append(a.all, next)
	}
	return a
}

const gcmPrefix = 1 + keyIDSize // version, key id

const keyIDSize = 4

type gcmKey struct {
	id   [keyIDSize]byte
	aead cipher.AEAD
}

func newGCMKey(key [32]byte) gcmKey {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key length is right by its type
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	sum := sha256.Sum256(append([]byte("authstore key id\x00"), key[:]...))
	return gcmKey{[keyIDSize]byte(sum[:]), gcm}
}

type aesGCM struct {
	primary gcmKey
	all     []gcmKey // each key once; several may have the same id
	shared  bool     // an old key has the id of primary
}

func (a aesGCM) Encrypt(plaintext, ad []byte) ([]byte, error) {
	nonceSize := a.primary.aead.NonceSize()
	out := make([]byte, gcmPrefix+nonceSize, gcmPrefix+nonceSize+len(plaintext)+a.primary.aead.Overhead())
	out[0] = 1
	copy(out[1:], a.primary.id[:])
	nonce := out[gcmPrefix:]
	_, _ = rand.Read(nonce) // never fails
	return a.primary.aead.Seal(out, nonce, plaintext, ad), nil
}

func (a aesGCM) Decrypt(ciphertext, ad []byte) ([]byte, error) {
	nonceSize := a.primary.aead.NonceSize()
	if len(ciphertext) < gcmPrefix+nonceSize || ciphertext[0] != 1 {
		return nil, fmt.Errorf("%w: not a sealed value", ErrCorrupt)
	}
	id, known := ciphertext[1:gcmPrefix], false
	for _, k := range a.all {
		if !bytes.Equal(id, k.id[:]) {
			continue
		}
		known = true
		if out, err := k.aead.Open(nil, ciphertext[gcmPrefix:gcmPrefix+nonceSize], ciphertext[gcmPrefix+nonceSize:], ad); err == nil {
			return out, nil
		}
	}
	if known {
		return nil, fmt.Errorf("%w: sealed with key %x, and changed or moved since", ErrCorrupt, id)
	}
	return nil, fmt.Errorf("sealed with key %x, which was not passed to NewAESGCM", id)
}

// Current says false where the id does not tell: Reseal then seals a value anew
// that may have the right key already, and none is left under an old one.
func (a aesGCM) Current(ciphertext []byte) bool {
	return !a.shared && len(ciphertext) >= gcmPrefix && ciphertext[0] == 1 && bytes.Equal(ciphertext[1:gcmPrefix], a.primary.id[:])
}
