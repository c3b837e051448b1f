package stability

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"google.golang.org/protobuf/proto"
)

// A secret is found where whatsmeow finds it, and no form of a message ends the process.
func FuzzSecretIsThatOfTheMessage(f *testing.F) {
	info := &waE2E.MessageContextInfo{MessageSecret: []byte("secret"), MessageAddOnDurationInSecs: proto.Uint32(1)}
	for _, m := range []*waE2E.Message{
		{}, {Conversation: proto.String("x")}, {Conversation: proto.String("x"), MessageContextInfo: info},
		{MessageContextInfo: &waE2E.MessageContextInfo{}},
	} {
		raw, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(append(raw, 2, 2))
		f.Add(append(raw, 200))
	}
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		secret := secretOf(b)
		raw, _, ok := unpadded(b)
		if !ok {
			return
		}
		var msg waE2E.Message
		require.NoError(t, proto.Unmarshal(raw, &msg))
		again, err := proto.MarshalOptions{Deterministic: true}.Marshal(&msg)
		require.NoError(t, err)
		// A field that comes in two pieces is joined by a parser. Nobody writes it so, and
		// whatsmeow stores the secret then.
		if len(secret) > 0 || bytes.Equal(again, raw) {
			require.Equal(t, string(msg.GetMessageContextInfo().GetMessageSecret()), string(secret))
		}
	})
}
