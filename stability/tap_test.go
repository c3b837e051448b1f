package stability

import (
	"testing"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	waLog "go.mau.fi/whatsmeow/util/log"
)

// shown is a stanza that prints itself, as neither a text nor a node.
type shown string

func (s shown) String() string { return string(s) }

// broken is one that cannot be printed.
type broken struct{ text *string }

func (b *broken) String() string { return *b.text }

func TestTapTakesTextNodeAndStringer(t *testing.T) {
	for _, want := range []struct {
		text string
		node waBinary.Node
	}{
		{`<success t="1"/>`, waBinary.Node{Tag: "success", Attrs: waBinary.Attrs{"t": "1"}}},
		{`<stream:error code="515"/>`, waBinary.Node{Tag: "stream:error", Attrs: waBinary.Attrs{"code": "515"}}},
		{`<stream:error code="401"><conflict type="device_removed"/></stream:error>`, waBinary.Node{Tag: "stream:error", Attrs: waBinary.Attrs{"code": "401"},
			Content: []waBinary.Node{{Tag: "conflict", Attrs: waBinary.Attrs{"type": "device_removed"}}}}},
		{`<failure reason="402" code="101" expire="3600"/>`, waBinary.Node{Tag: "failure", Attrs: waBinary.Attrs{"reason": 402, "code": "101", "expire": "3600"}}},
		{`<iq from="s.whatsapp.net" id="1" type="get"><ping/></iq>`, waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"id": "1", "type": "get"}, Content: []waBinary.Node{{Tag: "ping"}}}},
		{`<iq id="1"><error type="get"/></iq>`, waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"id": "1"}}},
		{`<message type="text"><enc/></message>`, waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"type": "text"}}},
		{`<xmlstreamend/>`, waBinary.Node{Tag: "xmlstreamend"}},
	} {
		fromText, ok := look(want.text)
		require.True(t, ok)
		require.Equal(t, want.node.Tag, fromText.tag)
		for _, arg := range []any{&want.node, want.node, shown(want.text)} {
			got, ok := look(arg)
			require.True(t, ok)
			require.Equal(t, fromText, got, "%T", arg)
		}
	}
	for _, arg := range []any{nil, (*waBinary.Node)(nil), &waBinary.Node{}, "", "<", "</>", "frame: <success/>", 7, shown(""), (*broken)(nil), []byte("<success/>")} {
		_, ok := look(arg)
		require.False(t, ok, "%T %v", arg, arg)
	}
}

func TestTapRendersNoWholeStanza(t *testing.T) {
	n := &waBinary.Node{Tag: "message", Attrs: waBinary.Attrs{"id": "3EB0", "type": "text"},
		Content: []waBinary.Node{{Tag: "enc", Content: make([]byte, 1<<20)}}}
	require.Zero(t, testing.AllocsPerRun(100, func() { look(n) }))
	n = &waBinary.Node{Tag: "iq", Attrs: waBinary.Attrs{"id": "1", "type": "result"}, Content: make([]waBinary.Node, 1000)}
	require.Zero(t, testing.AllocsPerRun(100, func() { look(n) }))
	end := &waBinary.Node{Tag: "stream:error", Attrs: waBinary.Attrs{"code": "515"}, Content: make([]waBinary.Node, 1000)}
	require.Less(t, testing.AllocsPerRun(100, func() { look(end) }), 10.0)
}

func TestTapBeforeAttachOnlyPassesOn(t *testing.T) {
	require.NotPanics(t, func() { newTap(waLog.Noop).Sub("Recv").Debugf("%s", &waBinary.Node{Tag: "success"}) })
}
