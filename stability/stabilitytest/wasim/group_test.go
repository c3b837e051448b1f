package wasim_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow"
	"go.mau.fi/whatsmeow/types"

	"github.com/wastability/wastability/stability/stabilitytest/wasim"
)

func TestGroupsOfRealClientsChat(t *testing.T) {
	for _, lid := range []bool{false, true} {
		t.Run(fmt.Sprint("LID ", lid), func(t *testing.T) {
			onBoth(t, func(t *testing.T, s *wasim.Service) {
				var cs []*wasim.Contact
				var accts []*wasim.Account
				for i := range 3 {
					cs = append(cs, newContact(t, s, fmt.Sprintf("49170000000%d", i)))
					accts = append(accts, cs[i].Account())
				}
				g := s.NewGroup
				if lid {
					g = s.NewLIDGroup
				}
				group := g("team", accts...)
				ctx := within(t, time.Minute)
				for round := range 2 {
					for i, c := range cs {
						_, err := c.Send(ctx, group.JID(), fmt.Sprint(i, round))
						require.NoError(t, err)
					}
				}
				for i, c := range cs {
					eventually(t, "four messages", func() bool { return len(c.Texts()) == 4 })
					require.Zero(t, c.Undecryptable(), "of %d", i)
					require.Equal(t, group.JID(), c.Received()[0].Chat)
				}
				// a member that comes later reads what is sent from then on
				late := newContact(t, s, "491700000009")
				group.Add(late.Account())
				eventually(t, "told", func() bool {
					return cs[0].Account().Devices()[0].Stats().StanzasOut["notification"] > 0
				})
				time.Sleep(50 * time.Millisecond)
				_, err := cs[0].Send(ctx, group.JID(), "hello")
				require.NoError(t, err)
				eventually(t, "greeted", func() bool { return len(late.Texts()) == 1 })
			})
		})
	}
}

func TestAGroupOf256EncryptsForEachDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := wasim.New(wasim.WithTB(t))
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		ghosts := s.Ghosts(254)
		g := s.NewGroup("crowd", append([]*wasim.Account{a.Account(), b.Account()}, ghosts...)...)
		for i := range 2 {
			_, err := a.Send(t.Context(), g.JID(), fmt.Sprint(i))
			require.NoError(t, err)
		}
		time.Sleep(time.Second)
		require.Equal(t, []string{"0", "1"}, b.Texts())
		for _, gh := range ghosts {
			require.Equal(t, 2, s.GhostMessages(gh))
		}
		s.Close()
	})
}

func TestAClientMayMakeAGroup(t *testing.T) {
	onBoth(t, func(t *testing.T, s *wasim.Service) {
		a, b := newContact(t, s, "491700000001"), newContact(t, s, "491700000002")
		ctx := within(t, time.Minute)
		info, err := a.Client().CreateGroup(ctx, whatsmeow.ReqCreateGroup{Name: "x", Participants: []types.JID{b.JID()}})
		require.NoError(t, err)
		_, err = b.Send(ctx, info.JID, "thanks")
		require.NoError(t, err)
		eventually(t, "there", func() bool { return len(a.Texts()) == 1 })
		list, err := b.Client().GetJoinedGroups(ctx)
		require.NoError(t, err)
		require.Len(t, list, 1)
	})
}
