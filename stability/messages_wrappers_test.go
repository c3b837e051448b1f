package stability

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/types/events"
	"google.golang.org/protobuf/proto"
)

// wrappers are those that whatsmeow takes off before it gives a message to the handlers.
var wrappers = map[string]func(*waE2E.Message) *waE2E.Message{
	"sent by the phone": func(m *waE2E.Message) *waE2E.Message {
		return &waE2E.Message{DeviceSentMessage: &waE2E.DeviceSentMessage{Message: m, DestinationJID: proto.String("1@s.whatsapp.net")}}
	},
	"for a bot":    func(m *waE2E.Message) *waE2E.Message { return &waE2E.Message{BotInvokeMessage: wrap(m)} },
	"disappearing": func(m *waE2E.Message) *waE2E.Message { return &waE2E.Message{EphemeralMessage: wrap(m)} },
	"view once":    func(m *waE2E.Message) *waE2E.Message { return &waE2E.Message{ViewOnceMessage: wrap(m)} },
	"view once V2": func(m *waE2E.Message) *waE2E.Message { return &waE2E.Message{ViewOnceMessageV2: wrap(m)} },
	"view once V2 extension": func(m *waE2E.Message) *waE2E.Message {
		return &waE2E.Message{ViewOnceMessageV2Extension: wrap(m)}
	},
	"sticker":               func(m *waE2E.Message) *waE2E.Message { return &waE2E.Message{LottieStickerMessage: wrap(m)} },
	"document with caption": func(m *waE2E.Message) *waE2E.Message { return &waE2E.Message{DocumentWithCaptionMessage: wrap(m)} },
	"edit":                  func(m *waE2E.Message) *waE2E.Message { return &waE2E.Message{EditedMessage: wrap(m)} },
	"disappearing edit of the phone": func(m *waE2E.Message) *waE2E.Message {
		m = &waE2E.Message{EphemeralMessage: wrap(&waE2E.Message{EditedMessage: wrap(m)})}
		return &waE2E.Message{DeviceSentMessage: &waE2E.DeviceSentMessage{Message: m}}
	},
}

func wrap(m *waE2E.Message) *waE2E.FutureProofMessage { return &waE2E.FutureProofMessage{Message: m} }

// A sender adds another secret each time, and whatsmeow writes it into the innermost message.
func TestWrappedMessageIsTheSameEachTimeThatItIsSent(t *testing.T) {
	for name, in := range wrappers {
		t.Run(name, func(t *testing.T) {
			sent := func(text, secret string) *waE2E.Message {
				m := in(&waE2E.Message{Conversation: proto.String(text)})
				if secret != "" {
					m.MessageContextInfo = &waE2E.MessageContextInfo{MessageSecret: []byte(secret)}
				}
				return m
			}
			raw := func(m *waE2E.Message) []byte {
				b, err := proto.Marshal(m)
				require.NoError(t, err)
				return b
			}
			handed := func(m *waE2E.Message) *waE2E.Message {
				return (&events.Message{RawMessage: proto.Clone(m).(*waE2E.Message)}).UnwrapRaw().RawMessage
			}
			plain := sent("hello", "first")
			for _, again := range []*waE2E.Message{plain, handed(plain), sent("hello", "second"), handed(sent("hello", "second")), sent("hello", "")} {
				rec := messageRecord{Contents: [][]byte{raw(handed(plain))}}
				require.True(t, rec.has(raw(again)))
				require.Equal(t, sumOf(handed(plain)), sumOf(again))
			}
			rec := messageRecord{Contents: [][]byte{raw(handed(plain))}}
			require.False(t, rec.has(raw(sent("another", "first"))))
			require.NotEqual(t, sumOf(plain), sumOf(sent("another", "first")))
			require.Equal(t, []byte("first"), plain.GetMessageContextInfo().GetMessageSecret(), "nobody's message is changed")
			require.Equal(t, sumOf(&waE2E.Message{Conversation: proto.String("hello")}), sumOf(plain), "the phone may know it without the wrapper")
		})
	}
}
