package authstore

import (
	"maps"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

// What a host may expect of an account, in plain maps.
type expected struct {
	sessions, identities, senderKeys map[string]string
	preKeys                          map[uint32]preKeyExpected
	nextPreKey                       uint32
	appKeys                          map[string]store.AppStateSyncKey
	versions                         map[string]uint64
	macs                             map[[2]string]string // by collection and index
	contacts                         map[types.JID]types.ContactInfo
	chats                            map[types.JID]types.LocalChatSettings
	tokens                           map[types.JID]store.PrivacyToken
	lidOf, pnOf                      map[string]string
	open, seen                       map[[32]byte]eventExpected
	secrets                          map[[3]string]string // by chat, sender and id
	sent                             map[string][2]string // by id: format and plaintext
	book                             map[string]string
	salt                             string
	pushName                         string
}

type preKeyExpected struct {
	public   [32]byte
	uploaded bool
}

type eventExpected struct {
	plaintext string
	server    int64
}

func (e *expected) clone() *expected {
	o := *e
	o.sessions, o.identities, o.senderKeys = maps.Clone(e.sessions), maps.Clone(e.identities), maps.Clone(e.senderKeys)
	o.preKeys, o.appKeys, o.versions, o.macs = maps.Clone(e.preKeys), maps.Clone(e.appKeys), maps.Clone(e.versions), maps.Clone(e.macs)
	o.contacts, o.chats, o.tokens = maps.Clone(e.contacts), maps.Clone(e.chats), maps.Clone(e.tokens)
	o.lidOf, o.pnOf, o.open, o.seen = maps.Clone(e.lidOf), maps.Clone(e.pnOf), maps.Clone(e.open), maps.Clone(e.seen)
	o.secrets, o.sent, o.book = maps.Clone(e.secrets), maps.Clone(e.sent), maps.Clone(e.book)
	return &o
}

func newExpected() *expected {
	return &expected{
		sessions: map[string]string{}, identities: map[string]string{}, senderKeys: map[string]string{},
		preKeys: map[uint32]preKeyExpected{}, nextPreKey: firstPreKey, appKeys: map[string]store.AppStateSyncKey{},
		versions: map[string]uint64{}, macs: map[[2]string]string{},
		contacts: map[types.JID]types.ContactInfo{}, chats: map[types.JID]types.LocalChatSettings{}, tokens: map[types.JID]store.PrivacyToken{},
		lidOf: map[string]string{}, pnOf: map[string]string{}, open: map[[32]byte]eventExpected{}, seen: map[[32]byte]eventExpected{},
		secrets: map[[3]string]string{}, sent: map[string][2]string{}, book: map[string]string{},
	}
}

// namesOf are a contact's names, the given one first.
func (e *expected) namesOf(j types.JID) []types.JID {
	if lid, ok := e.lidOf[j.User]; ok && j.Server == types.DefaultUserServer {
		return []types.JID{j, types.NewJID(lid, types.HiddenUserServer)}
	}
	if pn, ok := e.pnOf[j.User]; ok && j.Server == types.HiddenUserServer {
		return []types.JID{j, types.NewJID(pn, types.DefaultUserServer)}
	}
	return []types.JID{j}
}
