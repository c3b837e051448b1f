package authstore

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

func storedToken(t *testing.T, d *store.Device, user types.JID) token {
	t.Helper()
	v, ok := storeOf(d).get(bg, tToken, user.ToNonAD().String())
	require.True(t, ok)
	tok, err := parseToken(v)
	require.NoError(t, err)
	return tok
}

// A contact has two names, and may have given a token under each.
func TestNewestTokenOfEitherNameIsUsed(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	pn, lid := types.NewJID("15550002", types.DefaultUserServer), types.NewJID("902", types.HiddenUserServer)
	require.NoError(t, d.LIDs.PutLIDMapping(bg, lid, pn))
	for _, c := range []struct {
		user types.JID
		at   int64
		want string
	}{{pn, 5, "5"}, {lid, 7, "7"}, {pn, 6, "7"}, {pn, 9, "9"}, {lid, 8, "9"}} {
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: c.user, Token: []byte{byte('0' + c.at)}, Timestamp: time.Unix(c.at, 0)}))
		for _, user := range []types.JID{pn, lid} {
			token, err := d.PrivacyTokens.GetPrivacyToken(bg, user)
			require.NoError(t, err)
			require.Equal(t, c.want, string(token.Token))
		}
	}
}

// Of two tokens of one user the newer is kept, in whatever order they come, also
// in one call; and one that says when ours was given is not outdone by silence.
func TestNewestOfTokensThatComeTogetherIsKept(t *testing.T) {
	for _, order := range [][]int64{{100, 200, 300}, {300, 200, 100}, {200, 300, 100}} {
		_, d, _ := open(t, newMapKV())
		user := testJID(4)
		require.NoError(t, storeOf(d).later(bg, "put", soon, put(tToken, user.ToNonAD().String(), token{at: 50, sent: 40, bytes: []byte("50")}.value())))
		var together []store.PrivacyToken
		for _, at := range order {
			together = append(together, store.PrivacyToken{User: user, Token: fmt.Append(nil, at), Timestamp: time.Unix(at, 0)})
		}
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, together...))
		require.Equal(t, token{300, 40, []byte("300")}, storedToken(t, d, user), strings.Trim(fmt.Sprint(order), "[]"))
	}
}

func TestTokenWithoutSenderTimeKeepsStoredOne(t *testing.T) {
	kv := newMapKV()
	c, d, _ := open(t, kv)
	user := testJID(4)
	require.NoError(t, storeOf(d).later(bg, "put", soon, put(tToken, user.ToNonAD().String(), token{at: 100, sent: 90, bytes: []byte("a")}.value())))

	notified := func(at int64, text string) store.PrivacyToken {
		return store.PrivacyToken{User: user, Token: []byte(text), Timestamp: time.Unix(at, 0)}
	}
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, notified(200, "b")))
	require.Equal(t, token{200, 90, []byte("b")}, storedToken(t, d, user))
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, notified(150, "older"), notified(200, "same time"), notified(300, "c")))
	require.Equal(t, token{300, 90, []byte("c")}, storedToken(t, d, user))
	require.NoError(t, storeOf(d).DoDecryptionTxn(bg, func(ctx context.Context) error {
		return d.PrivacyTokens.PutPrivacyTokens(ctx, notified(400, "d"))
	}))
	require.Equal(t, token{400, 90, []byte("d")}, storedToken(t, d, user))

	_, d, _ = reopen(t, kv, c)
	require.Equal(t, token{400, 90, []byte("d")}, storedToken(t, d, user))

	field, ok := reflect.TypeFor[store.PrivacyToken]().FieldByName(senderTimestamp)
	if !ok {
		return // this whatsmeow has no such field
	}
	set := func(tok store.PrivacyToken, at time.Time) store.PrivacyToken {
		reflect.ValueOf(&tok).Elem().FieldByIndex(field.Index).Set(reflect.ValueOf(at))
		return tok
	}
	got, err := d.PrivacyTokens.GetPrivacyToken(bg, user)
	require.NoError(t, err)
	require.Equal(t, set(notified(400, "d"), time.Unix(90, 0)).Token, got.Token)
	require.Equal(t, time.Unix(90, 0), reflect.ValueOf(got).Elem().FieldByIndex(field.Index).Interface())
	// A history sync says 1970 where the sender has none.
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, set(notified(500, "e"), time.Unix(0, 0))))
	require.EqualValues(t, 90, storedToken(t, d, user).sent)
	require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, set(notified(500, "e"), time.Unix(480, 0))))
	require.EqualValues(t, 480, storedToken(t, d, user).sent)
}

func TestExpiredTokensGoByWholeSeconds(t *testing.T) {
	_, d, _ := open(t, newMapKV())
	for i := range int64(4) {
		require.NoError(t, d.PrivacyTokens.PutPrivacyTokens(bg, store.PrivacyToken{User: testJID(int(i)), Token: []byte("t"), Timestamp: time.Unix(100+i, 0)}))
	}
	n, err := storeOf(d).DeleteExpiredPrivacyTokens(bg, time.Unix(102, 500))
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	for i, want := range []bool{false, false, true, true} {
		got, err := d.PrivacyTokens.GetPrivacyToken(bg, testJID(i))
		require.NoError(t, err)
		require.Equal(t, want, got != nil, i)
	}
}
