package stability

import (
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

type retry = func(requester, to types.JID, id types.MessageID) *waE2E.Message

// newerClient has the field of newer versions of whatsmeow.
type newerClient struct {
	UseRetryMessageStore bool
	GetMessageForRetry   retry
}

func TestSentMessagesAreKeptUnlessTheHostHasThem(t *testing.T) {
	real := whatsmeow.NewClient(store.NoopDevice, nil)
	keepSentIn(reflect.ValueOf(real)) // whichever version this is
	if f := reflect.ValueOf(real).Elem().FieldByName("UseRetryMessageStore"); f.IsValid() {
		require.True(t, f.Bool())
	}

	c := &newerClient{GetMessageForRetry: real.GetMessageForRetry}
	keepSentIn(reflect.ValueOf(c))
	require.True(t, c.UseRetryMessageStore, "whatsmeow's own callback finds nothing")
	c.GetMessageForRetry = nil
	keepSentIn(reflect.ValueOf(c))
	require.True(t, c.UseRetryMessageStore)
	c.GetMessageForRetry = func(_, _ types.JID, _ types.MessageID) *waE2E.Message { return nil }
	keepSentIn(reflect.ValueOf(c))
	require.False(t, c.UseRetryMessageStore, "the host's would not be asked")

	keepSentIn(reflect.ValueOf(&struct{ UseRetryMessageStore string }{}))
	keepSentIn(reflect.ValueOf(&struct{}{}))
}
