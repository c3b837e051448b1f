package wasim_test

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	waBinary "go.mau.fi/whatsmeow/binary"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestFewKeysAreMadeWhereOneIsSaidToBeLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t), wasim.WithFewKeys())
		bob := newContact(t, s, "491700000002")
		d := bob.Account().Devices()[0]
		eventually(t, "uploaded", func() bool { return d.PreKeys() == whatsmeow.WantedPreKeyCount })
	})
}

func TestOneTimePrekeysAreHandedOutOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, s *wasim.Service) {
		bob := newContact(t, s, "491700000002")
		d := bob.Account().Devices()[0]
		before := d.PreKeys()
		require.Equal(t, 812, before)
		for i := range 3 {
			c := newContact(t, s, fmt.Sprintf("49170000001%d", i))
			_, err := c.Send(t.Context(), bob.JID(), "first")
			require.NoError(t, err)
		}
		require.Equal(t, before-3, d.PreKeys())
		require.Equal(t, 3, d.Stats().PreKeysHandedOut)
	})
}

func TestAPrekeyIDIsNeverGivenToASecondKey(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *wasim.Service) {
		for _, allowed := range []bool{false, true} {
			opts := []wasim.Option{wasim.WithTB(&recorder{TB: t})}
			if allowed {
				opts = append(opts, wasim.AllowPreKeyReuse())
			}
			s := wasim.New(opts...)
			c := newContact(t, s, "491700000001")
			d, cli := c.Account().Devices()[0], c.Client().DangerousInternals()
			before := d.PreKeys()
			upload := func(key *keys.PreKey) error {
				_, err := cli.SendIQ(t.Context(), whatsmeow.DangerousInfoQuery{
					Namespace: "encrypt", Type: "set", To: types.ServerJID,
					Content: []waBinary.Node{
						{Tag: "identity", Content: c.Client().Store.IdentityKey.Pub[:]},
						{Tag: "list", Content: whatsmeowPreKeys(key)},
						whatsmeowPreKeys(c.Client().Store.SignedPreKey)[0],
					},
				})
				return err
			}
			same, err := c.Client().Store.PreKeys.GetPreKey(t.Context(), 7)
			require.NoError(t, err)
			require.NoError(t, upload(same), "a repeated upload")
			require.Equal(t, before, d.PreKeys(), "adds nothing")
			err = upload(keys.NewPreKey(7))
			if allowed {
				require.NoError(t, err)
				require.Equal(t, before+1, d.PreKeys())
			} else {
				require.ErrorIs(t, err, whatsmeow.ErrIQNotAcceptable)
				require.Len(t, s.Violations(), 1)
			}
			s.Close()
		}
	})
}

// whatsmeowPreKeys encodes a prekey as a client does.
func whatsmeowPreKeys(k *keys.PreKey) []waBinary.Node {
	n := waBinary.Node{Tag: "key", Content: []waBinary.Node{
		{Tag: "id", Content: []byte{byte(k.KeyID >> 16), byte(k.KeyID >> 8), byte(k.KeyID)}},
		{Tag: "value", Content: k.Pub[:]},
	}}
	if k.Signature != nil {
		n.Tag = "skey"
		n.Content = append(n.GetChildren(), waBinary.Node{Tag: "signature", Content: k.Signature[:]})
	}
	return []waBinary.Node{n}
}
