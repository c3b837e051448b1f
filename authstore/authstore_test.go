package authstore

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/types"
)

func TestDeviceSurvivesARestart(t *testing.T) {
	ctx := context.Background()
	kv := newMapKV()
	c, d, _ := open(t, kv)
	d.PushName = "Ä name"
	require.NoError(t, d.Save(ctx))
	require.NoError(t, d.Sessions.PutSession(ctx, "1:0", validSession(t, 1)))
	require.NoError(t, d.LIDs.PutLIDMapping(ctx, types.NewJID("900", types.HiddenUserServer), types.NewJID("1", types.DefaultUserServer)))
	_, _, err := d.Contacts.PutPushName(ctx, types.NewJID("1", types.DefaultUserServer), "Bob")
	require.NoError(t, err)
	keys, err := d.PreKeys.GetOrGenPreKeys(ctx, 812)
	require.NoError(t, err)

	_, again, _ := reopen(t, kv, c)
	require.Equal(t, d.ID, again.ID)
	require.Equal(t, d.LID, again.LID)
	require.Equal(t, d.NoiseKey, again.NoiseKey)
	require.Equal(t, d.IdentityKey, again.IdentityKey)
	require.Equal(t, d.SignedPreKey, again.SignedPreKey)
	require.Equal(t, d.Account.Details, again.Account.Details)
	require.Equal(t, d.PushName, again.PushName)
	require.Equal(t, d.AdvSecretKey, again.AdvSecretKey)
	require.Equal(t, d.RegistrationID, again.RegistrationID)
	sess, err := again.Sessions.GetSession(ctx, "1:0")
	require.NoError(t, err)
	require.Equal(t, validSession(t, 1), sess)
	lid, err := again.LIDs.GetLIDForPN(ctx, types.JID{User: "1", Device: 7, Server: types.DefaultUserServer})
	require.NoError(t, err)
	require.Equal(t, "900:7@lid", lid.String())
	contact, err := again.Contacts.GetContact(ctx, types.NewJID("1", types.DefaultUserServer))
	require.NoError(t, err)
	require.Equal(t, "Bob", contact.PushName)
	sameKeys, err := again.PreKeys.GetOrGenPreKeys(ctx, 812)
	require.NoError(t, err)
	require.Equal(t, keys, sameKeys)
}
