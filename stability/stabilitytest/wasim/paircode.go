package wasim

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
)

// codeLink is a pairing by an eight character code that the user types into
// the phone.
type codeLink struct {
	ref  string
	acct *Account
	p    *pairing
	eph  []byte // the client's ephemeral key under the code: salt, iv, key
	ours *keys.KeyPair
	dh   []byte // shared secret of the ephemeral keys, once the code is entered
}

// codeIterations is what makes guessing a code expensive.
const codeIterations = 2 << 16

// linkCode takes the client's two queries: hello, when it shows a code, and
// finish, when the phone has answered. The caller holds s.mu.
func (c *conn) linkCode(n *node) {
	reg := child(n, "link_code_companion_reg")
	switch str(reg, "stage") {
	case "companion_hello":
		acct := c.s.account(jid(reg, "jid"))
		eph := content(reg, "link_code_pairing_wrapped_companion_ephemeral_pub")
		switch {
		case c.pair == nil || len(eph) != 80:
			c.iqError(n, 400, "bad-request")
		case acct == nil:
			c.iqError(n, 404, "item-not-found")
		case !bytes.Equal(content(reg, "companion_server_auth_key_pub"), c.static[:]):
			c.iqError(n, 400, "bad-request")
		case !strings.Contains(string(content(reg, "companion_platform_display")), "("):
			c.iqError(n, 400, "bad-request") // must read "Browser (OS)"
		default:
			if c.pair.link != nil {
				delete(c.s.links, c.pair.link.ref)
			}
			l := &codeLink{ref: base64.StdEncoding.EncodeToString(randomBytes(12)), acct: acct, p: c.pair, eph: eph}
			c.pair.link, c.s.links[l.ref] = l, l
			c.result(n, node{Tag: "link_code_companion_reg", Attrs: attrs{"stage": "companion_hello"},
				Content: []node{{Tag: "link_code_pairing_ref", Content: []byte(l.ref)}}})
		}
	case "companion_finish":
		l := c.s.links[string(content(reg, "link_code_pairing_ref"))]
		if l == nil || l.p.c != c || l.dh == nil {
			c.iqError(n, 404, "item-not-found")
			return
		}
		c.result(n)
		if err := l.finish(content(reg, "link_code_pairing_wrapped_key_bundle"),
			content(reg, "companion_identity_public")); err != nil {
			l.acct.pairErr = err
			l.dh = nil
		}
	default:
		c.unknown(n)
	}
}

// EnterCode types the code that a client shows after PairPhone into the
// phone. Whether it was the right one shows later: the client then logs in,
// or Account.PairingError says what was wrong, since neither side can tell
// before both have used it.
func (p *Phone) EnterCode(code string) error {
	code = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(code))
	if len(code) != 8 {
		return fmt.Errorf("wasim: a pairing code has eight characters, this one has %d", len(code))
	}
	s := p.a.s
	s.mu.Lock()
	var l *codeLink
	for _, x := range s.links {
		if x.acct == p.a && x.dh == nil {
			l = x
		}
	}
	s.mu.Unlock()
	if l == nil {
		return ErrNoSuchCode
	}
	clientEph, err := underCode(code, l.eph[:32], l.eph[32:48], l.eph[48:])
	if err != nil {
		return err
	}
	ours := keys.NewKeyPair()
	secret, err := dh(ours.Priv[:], clientEph)
	if err != nil {
		return fmt.Errorf("wasim: wrong code: %w", err)
	}
	salt, iv := randomBytes(32), randomBytes(16)
	wrapped, err := underCode(code, salt, iv, ours.Pub[:])
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.links[l.ref] != l {
		return ErrNoSuchCode
	}
	l.ours, l.dh = ours, secret
	l.p.c.send(node{Tag: "notification", Attrs: attrs{
		"from": types.ServerJID, "type": "link_code_companion_reg", "id": s.id(), "t": time.Now().Unix(),
	}, Content: []node{{Tag: "link_code_companion_reg", Attrs: attrs{"stage": "primary_hello"}, Content: []node{
		{Tag: "link_code_pairing_ref", Content: []byte(l.ref)},
		{Tag: "link_code_pairing_wrapped_primary_ephemeral_pub", Content: slices.Concat(salt, iv, wrapped)},
		{Tag: "primary_identity_pub", Content: p.a.key.Pub[:]},
	}}}})
	return nil
}

// underCode encrypts or decrypts a key with a key made from the code.
func underCode(code string, salt, iv, key []byte) ([]byte, error) {
	k, err := pbkdf2.Key(sha256.New, code, salt, codeIterations, 32)
	if err != nil {
		return nil, err
	}
	b, err := aes.NewCipher(k)
	if err != nil {
		return nil, err
	}
	out := make([]byte, len(key))
	cipher.NewCTR(b, iv).XORKeyStream(out, key)
	return out, nil
}

var errWrongCode = errors.New("wasim: the code entered was not the one shown: the client's keys do not open")

// finish opens the client's key bundle and derives the secret under which the
// phone then signs the device in. The caller holds s.mu.
func (l *codeLink) finish(bundle, identity []byte) error {
	if len(bundle) < 32+12+16 || len(identity) != 32 {
		return errors.New("wasim: malformed key bundle")
	}
	k, err := hkdf.Key(sha256.New, l.dh, bundle[:32], "link_code_pairing_key_bundle_encryption_key", 32)
	if err != nil {
		return err
	}
	plain, err := mustGCM(k).Open(nil, bundle[32:44], bundle[44:], nil)
	if err != nil || len(plain) != 96 {
		return errWrongCode
	}
	if !bytes.Equal(plain[:32], identity) || !bytes.Equal(plain[32:64], l.acct.key.Pub[:]) {
		return errors.New("wasim: the key bundle names other identity keys")
	}
	shared, err := dh(l.acct.key.Priv[:], identity)
	if err != nil {
		return err
	}
	secret, err := hkdf.Key(sha256.New, slices.Concat(l.dh, shared, plain[64:]), nil, "adv_secret", 32)
	if err != nil {
		return err
	}
	return l.acct.accept(l.p, secret)
}
