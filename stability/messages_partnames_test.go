package stability

import (
	"context"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// oneContact is a map of LIDs that knows one.
type oneContact struct {
	store.LIDStore
	pn, lid types.JID
}

func (o oneContact) GetLIDForPN(_ context.Context, pn types.JID) (types.JID, error) {
	if pn.User != o.pn.User {
		return types.JID{}, nil
	}
	return types.JID{User: o.lid.User, Device: pn.Device, Server: types.HiddenUserServer}, nil
}

func (o oneContact) GetPNForLID(_ context.Context, lid types.JID) (types.JID, error) {
	if lid.User != o.lid.User {
		return types.JID{}, nil
	}
	return types.JID{User: o.pn.User, Device: lid.Device, Server: types.DefaultUserServer}, nil
}

// A newer whatsmeow names the sender by the LID where it knows one, and it may learn
// it between two deliveries of one message.
func TestAllNamesOfAPartAreKnown(t *testing.T) {
	jid := func(s string) types.JID {
		j, err := types.ParseJID(s)
		require.NoError(t, err)
		return j
	}
	lids := oneContact{pn: jid("49152@s.whatsapp.net"), lid: jid("777@lid")}
	const c = "ciphertext"
	for name, f := range map[string]struct {
		attrs waBinary.Attrs
		kind  string
		want  []string // of what whatsmeow makes the hash
	}{
		"of a phone number that is known":     {waBinary.Attrs{"from": jid("49152:3@s.whatsapp.net")}, "msg", []string{"normal\x0049152:3@s.whatsapp.net", "normal\x00777:3@lid"}},
		"of a LID that is known":              {waBinary.Attrs{"from": jid("777:3@lid")}, "pkmsg", []string{"prekey\x0049152:3@s.whatsapp.net", "prekey\x00777:3@lid"}},
		"whose LID the stanza tells":          {waBinary.Attrs{"from": jid("49153:2@s.whatsapp.net"), "sender_lid": jid("778@lid")}, "msg", []string{"normal\x0049153:2@s.whatsapp.net", "normal\x00778:2@lid"}},
		"whose phone number the stanza tells": {waBinary.Attrs{"from": jid("778@lid"), "sender_pn": jid("49153@s.whatsapp.net")}, "msg", []string{"normal\x00778@lid", "normal\x0049153@s.whatsapp.net"}},
		"of a hosted device":                  {waBinary.Attrs{"from": types.JID{User: "49154", Device: 99, Server: types.HostedServer}}, "msg", []string{"normal\x0049154:99@s.whatsapp.net"}},
		"of a hosted device by its LID":       {waBinary.Attrs{"from": types.JID{User: "779", Device: 99, Server: types.HostedLIDServer}}, "msg", []string{"normal\x00779:99@lid"}},
		"of a group": {waBinary.Attrs{"from": jid("1-2@g.us"), "participant": jid("49152:3@s.whatsapp.net")}, "skmsg",
			[]string{"senderkey\x001-2@g.us\x0049152:3@s.whatsapp.net", "senderkey\x001-2@g.us\x00777:3@lid"}},
		"of a group, and the stanza tells the LID": {waBinary.Attrs{"from": jid("1-2@g.us"), "participant": jid("49155@s.whatsapp.net"), "participant_lid": jid("780@lid")}, "skmsg",
			[]string{"senderkey\x001-2@g.us\x00780@lid"}},
		"of a group, and the stanza tells the phone number": {waBinary.Attrs{"from": jid("1-2@g.us"), "participant": jid("780@lid"), "participant_pn": jid("49155@s.whatsapp.net")}, "msg",
			[]string{"normal\x0049155@s.whatsapp.net"}},
		"a bot's": {waBinary.Attrs{"from": jid("1@bot")}, "msmsg", nil},
	} {
		t.Run(name, func(t *testing.T) {
			part := func(kind string, content any) waBinary.Node {
				return waBinary.Node{Tag: "enc", Attrs: waBinary.Attrs{"type": kind, "v": "2"}, Content: content}
			}
			d := &delivery{
				a:    &attachment{device: &store.Device{LIDs: lids}},
				node: &waBinary.Node{Tag: "message", Attrs: f.attrs, Content: []waBinary.Node{part("msg", []byte("another")), part(f.kind, []byte(c)), part("msg", nil)}},
			}
			older := sha256.Sum256([]byte(c))
			for _, w := range f.want {
				newer := sha256.Sum256([]byte(c + "\x00" + w + "\x00\x00"))
				require.Contains(t, d.OtherHashes(t.Context(), older), newer, w)
				require.Contains(t, d.OtherHashes(t.Context(), newer), older, w)
				require.NotContains(t, d.OtherHashes(t.Context(), newer), newer)
			}
			require.Len(t, d.encrypted(), 2, "one has no ciphertext")
			// Of a version that is not known yet, a message of one part is.
			unknown := [32]byte{1}
			require.Empty(t, d.OtherHashes(t.Context(), unknown))
			d.node.Content = []waBinary.Node{part(f.kind, []byte(c))}
			require.Contains(t, d.OtherHashes(t.Context(), unknown), older)
			// The request is known in any version.
			require.NoError(t, d.Begin(t.Context(), unknown, nil))
			known := d.known(t.Context(), d.encrypted()...)
			require.Contains(t, known, unknown)
			require.Contains(t, known, older)
			slices.SortFunc(known, func(x, y [32]byte) int { return slices.Compare(x[:], y[:]) })
			require.Len(t, slices.Compact(known), len(known), "each is named once")
		})
	}
	require.Empty(t, (&delivery{}).OtherHashes(t.Context(), [32]byte{}), "it is handed over from the store")
}
