package wasim

import (
	"context"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/coder/websocket"
	"go.mau.fi/whatsmeow/binary/token"
	"go.mau.fi/whatsmeow/proto/waWa6"
	"go.mau.fi/whatsmeow/socket"
	"go.mau.fi/whatsmeow/util/gcmutil"
	"go.mau.fi/whatsmeow/util/keys"
	"google.golang.org/protobuf/proto"
)

// noiseState is the symmetric state of Noise_XX_25519_AESGCM_SHA256. The
// client's own (socket.NoiseHandshake) keeps the final keys to itself and
// hands them out in the initiator's order, so the responder has its own.
type noiseState struct {
	hash, salt []byte
	key        cipher.AEAD
	counter    uint32
}

func newNoiseState(header []byte) *noiseState {
	n := &noiseState{hash: []byte(socket.NoiseStartPattern)}
	n.salt = n.hash
	n.key = mustGCM(n.hash)
	n.mixHash(header)
	return n
}

func mustGCM(key []byte) cipher.AEAD {
	g, err := gcmutil.Prepare(key)
	if err != nil {
		panic(fmt.Errorf("wasim: preparing AES-GCM: %w", err))
	}
	return g
}

func (n *noiseState) mixHash(b []byte) {
	h := sha256.Sum256(append(append([]byte(nil), n.hash...), b...))
	n.hash = h[:]
}

func (n *noiseState) expand(secret []byte) (first, second []byte) {
	out, err := hkdf.Key(sha256.New, secret, n.salt, "", 64)
	if err != nil {
		panic(fmt.Errorf("wasim: deriving noise keys: %w", err))
	}
	return out[:32], out[32:]
}

func (n *noiseState) mixKey(priv *ecdh.PrivateKey, pub *ecdh.PublicKey) error {
	secret, err := priv.ECDH(pub)
	if err != nil {
		return err
	}
	salt, key := n.expand(secret)
	n.salt, n.key, n.counter = salt, mustGCM(key), 0
	return nil
}

// dh is the X25519 shared secret.
func dh(priv, pub []byte) ([]byte, error) {
	k, err := ecdh.X25519().NewPrivateKey(priv)
	if err != nil {
		return nil, err
	}
	p, err := ecdh.X25519().NewPublicKey(pub)
	if err != nil {
		return nil, err
	}
	return k.ECDH(p)
}

func (n *noiseState) seal(plain []byte) []byte {
	out := n.key.Seal(nil, nonce(n.counter), plain, n.hash)
	n.counter++
	n.mixHash(out)
	return out
}

func (n *noiseState) open(sealed []byte) ([]byte, error) {
	out, err := n.key.Open(nil, nonce(n.counter), sealed, n.hash)
	if err != nil {
		return nil, err
	}
	n.counter++
	n.mixHash(sealed)
	return out, nil
}

func nonce(count uint32) []byte {
	iv := make([]byte, 12)
	binary.BigEndian.PutUint32(iv[8:], count)
	return iv
}

// framing is the byte stream inside the websocket: one header, then frames
// with a three byte length, however they are cut into messages.
type framing struct {
	ws     *websocket.Conn
	buf    []byte
	header bool
}

var errBadHeader = errors.New("connection header is not WA, 6, dictionary version")

func (f *framing) next() ([]byte, error) {
	for {
		if !f.header && len(f.buf) >= len(socket.WAConnHeader) {
			if string(f.buf[:4]) != string([]byte{'W', 'A', socket.WAMagicValue, token.DictVersion}) {
				return nil, errBadHeader
			}
			f.buf, f.header = f.buf[4:], true
		}
		if f.header && len(f.buf) >= socket.FrameLengthSize {
			n := int(f.buf[0])<<16 | int(f.buf[1])<<8 | int(f.buf[2])
			if len(f.buf) >= socket.FrameLengthSize+n {
				frame := f.buf[socket.FrameLengthSize : socket.FrameLengthSize+n]
				f.buf = f.buf[socket.FrameLengthSize+n:]
				return frame, nil
			}
		}
		typ, msg, err := f.ws.Read(context.Background())
		if err != nil {
			return nil, err
		}
		if typ != websocket.MessageBinary {
			return nil, fmt.Errorf("websocket message of type %v", typ)
		}
		f.buf = append(f.buf[:len(f.buf):len(f.buf)], msg...)
	}
}

func (f *framing) write(frame []byte) error {
	if len(frame) >= socket.FrameMaxSize {
		return fmt.Errorf("frame of %d bytes is too large", len(frame))
	}
	out := make([]byte, socket.FrameLengthSize, socket.FrameLengthSize+len(frame))
	out[0], out[1], out[2] = byte(len(frame)>>16), byte(len(frame)>>8), byte(len(frame))
	return f.ws.Write(context.Background(), websocket.MessageBinary, append(out, frame...))
}

// noiseKeys are the service's own keys for handshakes. It keeps its ephemeral
// key: the client's is new each time, a simulation has no past to protect, and
// making keys was half of what a handshake costs the service.
type noiseKeys struct{ static, ephemeral *ecdh.PrivateKey }

func newNoiseKeys(static *keys.KeyPair) noiseKeys {
	return noiseKeys{mustX25519(static.Priv), mustX25519(keys.NewKeyPair().Priv)}
}

func mustX25519(priv *[32]byte) *ecdh.PrivateKey {
	k, err := ecdh.X25519().NewPrivateKey(priv[:])
	if err != nil {
		panic(fmt.Errorf("wasim: reading a private key: %w", err)) // only for another length
	}
	return k
}

// handshake answers the client as the responder and leaves the transport keys
// in c. beforeHello is called when the client hello has arrived.
func (c *conn) handshake(chain []byte, beforeHello func() bool) error {
	n := newNoiseState(socket.WAConnHeader)
	hello, err := c.readHandshake()
	if err != nil {
		return err
	}
	eph := hello.GetClientHello().GetEphemeral()
	if len(eph) != 32 {
		return errors.New("client hello has no ephemeral key")
	}
	if !beforeHello() {
		return errFaulted
	}
	clientEph, err := ecdh.X25519().NewPublicKey(eph)
	if err != nil {
		return err
	}
	n.mixHash(eph)
	ours, static := c.s.noise.ephemeral, c.s.noise.static
	n.mixHash(ours.PublicKey().Bytes())
	if err = n.mixKey(ours, clientEph); err != nil {
		return err
	}
	sealedStatic := n.seal(static.PublicKey().Bytes())
	if err = n.mixKey(static, clientEph); err != nil {
		return err
	}
	err = c.frames.write(mustMarshal(&waWa6.HandshakeMessage{ServerHello: &waWa6.HandshakeMessage_ServerHello{
		Ephemeral: ours.PublicKey().Bytes(), Static: sealedStatic, Payload: n.seal(chain),
	}}))
	if err != nil {
		return err
	}
	finish, err := c.readHandshake()
	if err != nil {
		return err
	}
	clientStatic, err := n.open(finish.GetClientFinish().GetStatic())
	if err != nil || len(clientStatic) != 32 {
		return fmt.Errorf("client static key does not open: %w", err)
	}
	c.static = [32]byte(clientStatic)
	clientKey, err := ecdh.X25519().NewPublicKey(clientStatic)
	if err != nil {
		return err
	}
	if err = n.mixKey(ours, clientKey); err != nil {
		return err
	}
	payload, err := n.open(finish.GetClientFinish().GetPayload())
	if err != nil {
		return fmt.Errorf("client payload does not open: %w", err)
	}
	c.payload = &waWa6.ClientPayload{}
	if err = proto.Unmarshal(payload, c.payload); err != nil {
		return err
	}
	read, write := n.expand(nil)
	c.dec, c.enc = mustGCM(read), mustGCM(write)
	return nil
}

func (c *conn) readHandshake() (*waWa6.HandshakeMessage, error) {
	frame, err := c.frames.next()
	if err != nil {
		return nil, err
	}
	m := &waWa6.HandshakeMessage{}
	return m, proto.Unmarshal(frame, m)
}
