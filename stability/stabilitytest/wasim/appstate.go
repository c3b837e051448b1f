package wasim

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"go.mau.fi/whatsmeow/appstate"
	"go.mau.fi/whatsmeow/proto/waE2E"
	"go.mau.fi/whatsmeow/proto/waServerSync"
	"go.mau.fi/whatsmeow/store"
	waLog "go.mau.fi/whatsmeow/util/log"
	"google.golang.org/protobuf/proto"
)

// appStates is an account's app state: what the service keeps of it (patches)
// and what its phone knows (keys, and the sum over all patches). It is guarded
// by s.mu.
type appStates struct {
	dev     *store.Device
	proc    *appstate.Processor
	keys    [][]byte // ids, the newest last
	patches map[appstate.WAPatchName][]*waServerSync.SyncdPatch
	sums    map[appstate.WAPatchName]appstate.HashState
	bad     map[appstate.WAPatchName]*waServerSync.SyncdPatch // what a bad patch should have been
}

func newAppStates(e *endpoint) *appStates {
	return &appStates{
		dev: e.dev, proc: appstate.NewProcessor(e.dev, waLog.Noop),
		patches: map[appstate.WAPatchName][]*waServerSync.SyncdPatch{},
		sums:    map[appstate.WAPatchName]appstate.HashState{},
		bad:     map[appstate.WAPatchName]*waServerSync.SyncdPatch{},
	}
}

func (st *appStates) newKey() error {
	id := []byte{0, 0, 0, 0, 0, byte(len(st.keys) + 1)}
	st.keys = append(st.keys, id)
	return st.dev.AppStateKeys.PutAppStateSyncKey(context.Background(), id, store.AppStateSyncKey{
		Data: randomBytes(32), Timestamp: time.Now().UnixMilli() + int64(len(st.keys)),
	})
}

// share is the message with the keys asked for, or all.
func (st *appStates) share(ids []*waE2E.AppStateSyncKeyId) *waE2E.ProtocolMessage {
	if ids == nil {
		for _, id := range st.keys {
			ids = append(ids, &waE2E.AppStateSyncKeyId{KeyID: id})
		}
	}
	out := &waE2E.AppStateSyncKeyShare{}
	for i, id := range ids {
		k, err := st.dev.AppStateKeys.GetAppStateSyncKey(context.Background(), id.GetKeyID())
		if err != nil || k == nil {
			continue
		}
		out.Keys = append(out.Keys, &waE2E.AppStateSyncKey{KeyID: id, KeyData: &waE2E.AppStateSyncKeyData{
			KeyData: k.Data, Timestamp: proto.Int64(k.Timestamp),
			Fingerprint: &waE2E.AppStateSyncKeyFingerprint{RawID: proto.Uint32(1), CurrentIndex: proto.Uint32(uint32(i))},
		}})
	}
	return &waE2E.ProtocolMessage{
		Type: waE2E.ProtocolMessage_APP_STATE_SYNC_KEY_SHARE.Enum(), AppStateSyncKeyShare: out,
	}
}

// add takes a patch on top of what is there.
func (st *appStates) add(name appstate.WAPatchName, raw []byte) error {
	patch := &waServerSync.SyncdPatch{}
	if err := proto.Unmarshal(raw, patch); err != nil {
		return fmt.Errorf("app state patch: %w", err)
	}
	patch.Version = &waServerSync.SyncdVersion{Version: proto.Uint64(uint64(len(st.patches[name]) + 1))}
	_, sum, err := st.proc.DecodePatches(context.Background(), &appstate.PatchList{
		// a copy: older versions of whatsmeow decrypt in place
		Name: name, Patches: []*waServerSync.SyncdPatch{proto.Clone(patch).(*waServerSync.SyncdPatch)},
	}, st.sums[name], true)
	if err != nil {
		return fmt.Errorf("app state patch: %w", err)
	}
	st.sums[name] = sum
	st.patches[name] = append(st.patches[name], patch)
	return nil
}

// ShareAppStateKeys gives all linked devices the keys of the account's app
// state, as a phone does after pairing. They fetch the app state then.
func (p *Phone) ShareAppStateKeys() error {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	st := p.alive().state
	if len(st.keys) == 0 {
		if err := st.newKey(); err != nil {
			return fmt.Errorf("wasim: app state key: %w", err)
		}
	}
	return p.tellAll(st.share(nil))
}

// RotateAppStateKey makes the phone use a new key from now on, which no device
// has: one that meets it asks the phone, which answers if it is on.
func (p *Phone) RotateAppStateKey() error {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	return p.alive().state.newKey()
}

// Patch changes the account's app state from the phone, as the Build functions
// of whatsmeow's appstate package say, and tells the linked devices.
func (p *Phone) Patch(info appstate.PatchInfo) error { return p.patch(info, false) }

// BadPatch is Patch with a patch that nobody can decode: its checksums are those
// of something else. No device gets past it, and the phone cannot write another
// to the same collection, until MendPatch.
func (p *Phone) BadPatch(info appstate.PatchInfo) error { return p.patch(info, true) }

func (p *Phone) patch(info appstate.PatchInfo, bad bool) error {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	st := p.alive().state
	if st.bad[info.Type] != nil {
		return fmt.Errorf("wasim: app state %s ends in a bad patch: MendPatch first", info.Type)
	}
	if len(st.keys) == 0 {
		if err := st.newKey(); err != nil {
			return fmt.Errorf("wasim: app state key: %w", err)
		}
	}
	raw, err := st.proc.EncodePatch(context.Background(), st.keys[len(st.keys)-1], st.sums[info.Type], info)
	if err == nil {
		err = st.add(info.Type, raw)
	}
	if err != nil {
		return fmt.Errorf("wasim: patching app state %s: %w", info.Type, err)
	}
	if bad {
		last := &st.patches[info.Type][len(st.patches[info.Type])-1]
		st.bad[info.Type] = *last
		worse := proto.Clone(*last).(*waServerSync.SyncdPatch)
		worse.SnapshotMAC, worse.PatchMAC = randomBytes(32), randomBytes(32)
		*last = worse
	}
	p.a.tellAppState(info.Type, nil)
	return nil
}

// MendPatch puts what BadPatch meant to write in place of it, and tells the
// linked devices.
func (p *Phone) MendPatch(name appstate.WAPatchName) {
	p.a.s.mu.Lock()
	defer p.a.s.mu.Unlock()
	st := p.alive().state
	if good := st.bad[name]; good != nil {
		st.patches[name][len(st.patches[name])-1] = good
		delete(st.bad, name)
		p.a.tellAppState(name, nil)
	}
}

// tellAppState tells the linked devices, one excepted, that a collection has
// changed. The caller holds s.mu.
func (a *Account) tellAppState(name appstate.WAPatchName, except *Device) {
	for _, id := range a.ids() {
		if d := a.devices[id]; !d.ghost && d != except {
			d.deliver(node{Tag: "notification", Attrs: attrs{
				"from": a.JID(), "type": "server_sync", "id": a.s.id(), "t": time.Now().Unix(),
			}, Content: []node{{Tag: "collection", Attrs: attrs{
				"name": string(name), "version": len(a.live.state.patches[name]),
			}}}}, true)
		}
	}
}

// appState answers with the patches that the device does not have, and takes
// those that it sends. Without a phone that wrote some, all collections are
// empty.
func (c *conn) appState(n *node) {
	var out []node
	sync := child(n, "sync")
	if sync == nil {
		c.iqError(n, 400, "bad-request")
		return
	}
	for _, col := range sync.GetChildrenByTag("collection") {
		out = append(out, c.collection(&col))
	}
	c.result(n, node{Tag: "sync", Content: out})
}

func (c *conn) collection(col *node) node {
	name := appstate.WAPatchName(str(col, "name"))
	have, _ := strconv.Atoi(str(col, "version"))
	live := c.dev.acct.live
	if live == nil || len(live.state.patches[name]) == 0 && child(col, "patch") == nil {
		return node{Tag: "collection", Attrs: attrs{"name": string(name), "version": strconv.Itoa(have)}}
	}
	st := live.state
	answer := func(typ string, more ...node) node {
		out := node{Tag: "collection", Attrs: attrs{"name": string(name), "version": strconv.Itoa(len(st.patches[name]))}}
		if typ != "" {
			out.Attrs["type"] = typ
		}
		var list []node
		for i, p := range st.patches[name] {
			if i >= have {
				list = append(list, node{Tag: "patch", Content: mustMarshal(p)})
			}
		}
		if len(list) > 0 {
			more = append(more, node{Tag: "patches", Content: list})
		}
		if len(more) > 0 {
			out.Content = more
		}
		return out
	}
	raw := content(col, "patch")
	switch {
	case raw == nil:
		return answer("")
	case have != len(st.patches[name]):
		return answer("error", node{Tag: "error", Attrs: attrs{"code": "409", "text": "conflict"}})
	}
	if err := st.add(name, raw); err != nil {
		c.s.violation("app state %s from %s: %v", name, c.dev.jid(), err)
		return answer("error", node{Tag: "error", Attrs: attrs{"code": "400", "text": "bad-request"}})
	}
	c.dev.acct.tellAppState(name, c.dev)
	have++
	return answer("")
}
