package wasim

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.mau.fi/whatsmeow/proto/waCompanionReg"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
	"google.golang.org/protobuf/proto"
)

// passkeyLife is how long a client has to answer a request for a passkey.
const passkeyLife = 5 * time.Minute

// passkeyLink is a pairing that waits for a passkey. Any passkey is accepted;
// what the client proves with its keys is checked.
type passkeyLink struct {
	acct    *Account
	opts    []ScanOption
	handoff []byte // proves that the client is the one whose code was scanned
	until   time.Time
	ref     string // given to the client for this step

	eph        []byte // the client's ephemeral key
	deviceType waCompanionReg.DeviceProps_PlatformType
	prologue   []byte // the client's identity as it sent it
	commitment []byte // to the nonce that it tells later
	nonced     bool
	ours       *keys.KeyPair
}

// AskForPasskey makes the service ask for a passkey before it links the device.
// Newer clients understand that; an older one does nothing, and the connection
// ends after five minutes.
func AskForPasskey() ScanOption { return func(s *scan) { s.passkey = true } }

// askPasskey sends the request. The caller holds s.mu.
func (p *pairing) askPasskey(a *Account, advSecret []byte, opts []ScanOption) error {
	handoff, err := hkdf.Key(sha256.New, advSecret, nil, "shortcake-passkey-handoff-v1", 32)
	if err != nil {
		return fmt.Errorf("wasim: %w", err)
	}
	s := p.c.s
	p.passkey = &passkeyLink{acct: a, opts: opts, handoff: handoff, until: time.Now().Add(passkeyLife)}
	options, err := json.Marshal(map[string]any{"challenge": "d2FzaW0", "rpId": "whatsapp.com", "timeout": passkeyLife.Milliseconds()})
	if err != nil {
		return fmt.Errorf("wasim: %w", err)
	}
	p.c.send(node{Tag: "notification", Attrs: attrs{
		"from": types.ServerJID, "type": "passkey_prologue_request", "id": s.id(), "t": time.Now().Unix(),
	}, Content: []node{{Tag: "passkey_request_options", Content: options}}})
	return nil
}

// passkeyStep takes the client's queries of a pairing with a passkey; false
// means that the query is none of them. The caller holds s.mu.
func (c *conn) passkeyStep(n *node) bool {
	if c.pair == nil || c.pair.passkey == nil || len(n.GetChildren()) != 1 {
		return false
	}
	l := c.pair.passkey
	ask := n.GetChildren()[0]
	var err error
	switch ask.Tag {
	case "ref":
		l.ref = c.s.id()
		c.result(n, node{Tag: "ref", Content: []byte(l.ref)})
		return true
	case "passkey_prologue":
		if err = l.begin(&ask); err == nil {
			c.result(n)
			c.send(node{Tag: "notification", Attrs: attrs{
				"from": types.ServerJID, "type": "crsc_continuation", "id": c.s.id(), "t": time.Now().Unix(),
			}, Content: []node{{Tag: "primary_ephemeral_identity", Content: mustMarshal(&waCompanionReg.PrimaryEphemeralIdentity{
				PublicKey: l.ours.Pub[:], Nonce: randomBytes(32),
			})}}})
		}
	case "companion_nonce":
		nonce := content(n, "companion_nonce")
		sum := sha256.Sum256(slices.Concat(l.prologue, nonce))
		if l.nonced = bytes.Equal(sum[:], l.commitment); !l.nonced {
			err = errors.New("the nonce is not the one that the client was bound to")
			break
		}
		c.result(n)
	case "encrypted_pairing_request":
		var secret []byte
		if secret, err = l.open(c, content(n, "encrypted_pairing_request")); err == nil {
			c.result(n)
			err = l.acct.accept(c.pair, secret, l.opts...)
		}
	default:
		return false
	}
	if err != nil {
		c.s.violation("pairing with a passkey: %v", err)
		c.iqError(n, 400, "bad-request")
	}
	return true
}

// begin takes the passkey and the key that the client goes on with.
func (l *passkeyLink) begin(n *node) error {
	raw := content(n, "prologue_payload")
	mac := hmac.New(sha256.New, l.handoff)
	mac.Write(raw)
	var prologue waCompanionReg.ProloguePayload
	var id waCompanionReg.CompanionEphemeralIdentity
	switch {
	case len(content(n, "credential_id")) == 0 || !json.Valid(content(n, "webauthn_assertion")):
		return errors.New("no passkey")
	case !hmac.Equal(mac.Sum(nil), content(n, "pairing_handoff_proof")):
		return errors.New("no proof that the client is the one whose code was scanned")
	case proto.Unmarshal(raw, &prologue) != nil || proto.Unmarshal(prologue.GetCompanionEphemeralIdentity(), &id) != nil:
		return errors.New("a prologue that does not parse")
	case id.GetRef() != l.ref || len(id.GetPublicKey()) != 32:
		return errors.New("a prologue for another pairing")
	}
	l.eph, l.deviceType, l.ours = id.GetPublicKey(), id.GetDeviceType(), keys.NewKeyPair()
	l.prologue, l.commitment = prologue.GetCompanionEphemeralIdentity(), prologue.GetCommitment().GetHash()
	return nil
}

// open reads the pairing request: the keys of the connection, and the secret
// under which the phone signs the device in.
func (l *passkeyLink) open(c *conn, sealed []byte) (advSecret []byte, err error) {
	if !l.nonced {
		return nil, errors.New("a pairing request before the nonce")
	}
	secret, err := dh(l.ours.Priv[:], l.eph)
	if err != nil {
		return nil, err
	}
	salt := fmt.Sprintf("Companion Pairing %d with ref %s", l.deviceType, l.ref)
	key, err := hkdf.Key(sha256.New, secret, []byte(salt), "Pairing Information Encryption Key", 32)
	if err != nil {
		return nil, err
	}
	var wrapped waCompanionReg.EncryptedPairingRequest
	if err = proto.Unmarshal(sealed, &wrapped); err != nil || len(wrapped.GetIV()) != 12 {
		return nil, errors.New("a pairing request that does not parse")
	}
	plain, err := mustGCM(key).Open(nil, wrapped.GetIV(), wrapped.GetEncryptedPayload(), nil)
	if err != nil {
		return nil, fmt.Errorf("the pairing request does not open: %w", err)
	}
	var req waCompanionReg.PairingRequest
	if err = proto.Unmarshal(plain, &req); err != nil {
		return nil, fmt.Errorf("the pairing request: %w", err)
	}
	if !bytes.Equal(req.GetCompanionPublicKey(), c.static[:]) ||
		!bytes.Equal(req.GetCompanionIdentityKey(), c.payload.GetDevicePairingData().GetEIdent()) {
		return nil, errors.New("the pairing request has other keys than the connection")
	}
	return req.GetAdvSecret(), nil
}
