package stability

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types"
	"google.golang.org/protobuf/proto"

	"github.com/wastability/wastability/stability/internal/book"
)

// A message to a group is a sender's key and a text behind it. All such keys are alike but
// for the key.
func TestKeyOfASenderIsNoMessageThatIsFound(t *testing.T) {
	r, k := bookOf(), book.Key{ID: "A", Chat: "1@g.us", Sender: "2@lid"}
	key := &waE2E.Message{SenderKeyDistributionMessage: &waE2E.SenderKeyDistributionMessage{GroupID: proto.String("1@g.us")}}
	now := time.Now()
	require.Empty(t, r.found(k, foundNote{Sum: sumOf(key), At: now}, now))
	require.Empty(t, r.lately)
	r.remember([]messageRecord{{Entry: book.Entry{Key: k}, Found: []foundNote{{Sum: sumOf(key), At: now}}}}) // of an earlier version
	chat, sender := types.NewJID("1", types.GroupServer), types.NewJID("2", types.HiddenUserServer)
	d := &delivery{a: &attachment{m: r.m}, key: k, node: &waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": "A", "from": chat, "participant": sender}}}
	require.False(t, r.resent(d, key), "its text is behind it")
}
