package authstore

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/libsignal/ecc"
	"go.mau.fi/libsignal/kdf"
	"go.mau.fi/libsignal/keys/chain"
	"go.mau.fi/libsignal/keys/identity"
	"go.mau.fi/libsignal/keys/root"
	"go.mau.fi/libsignal/state/record"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/util/keys"
)

// validSession is a session that libsignal parses, with counter n in it.
func validSession(t testing.TB, n uint32) []byte {
	t.Helper()
	kp := keys.NewKeyPairFromPrivateKey([32]byte{1})
	pub := ecc.NewDjbECPublicKey(*kp.Pub)
	r := record.NewSession(store.SignalProtobufSerializer.Session, store.SignalProtobufSerializer.State)
	st := r.SessionState()
	st.SetLocalIdentityKey(identity.NewKey(pub))
	st.SetRemoteIdentityKey(identity.NewKey(pub))
	st.SetSenderBaseKey(pub.Serialize())
	st.SetRootKey(root.NewKey(kdf.DeriveSecrets, make([]byte, 32)))
	st.SetSenderChain(ecc.NewECKeyPair(pub, ecc.NewDjbECPrivateKey(*kp.Priv)), chain.NewKey(kdf.DeriveSecrets, make([]byte, 32), 0))
	st.SetRemoteRegistrationID(n)
	return r.Serialize()
}

// validSenderKey is a sender key that libsignal parses, with mark in a field
// that it does not know. One that does not parse is set aside when it is read.
func validSenderKey(mark []byte) []byte {
	return fmt.Appendf(nil, `{"SenderKeyStates":[],"Mark":"%x"}`, mark)
}

func sessionCounter(t testing.TB, b []byte) uint32 {
	t.Helper()
	if b == nil {
		return 0
	}
	r, err := record.NewSessionFromBytes(b, store.SignalProtobufSerializer.Session, store.SignalProtobufSerializer.State)
	require.NoError(t, err)
	return r.SessionState().RemoteRegistrationID()
}

var bg = context.Background()
