package authstore

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.mau.fi/whatsmeow/proto/waAdv"
	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
	"go.mau.fi/whatsmeow/util/keys"
	waLog "go.mau.fi/whatsmeow/util/log"
)

// head says which generation of rows is the account's device. Everything else
// of a device stands under its generation, so two devices never mix and a
// purge can be taken up again.
type head struct {
	Gen       string     `json:"gen"`
	Next      int        `json:"next"` // of the next generation
	State     string     `json:"state"`
	JID       string     `json:"jid,omitempty"`
	DeletedAt time.Time  `json:"deletedAt,omitzero"`
	Reason    string     `json:"reason,omitempty"`
	Purge     []string   `json:"purge,omitempty"` // generations whose rows are to go
	Kept      *kept      `json:"kept,omitempty"`  // comes back if a new device is deleted before it has logged in
	Names     *headNames `json:"names,omitempty"` // nil: rows have plain names

	unknown map[string]json.RawMessage // what a newer library wrote beside
}

// kept is a deleted device in whose place another was saved, which has not
// proved yet that it can log in.
type kept struct {
	// Imported: the prekeys that the other one has uploaded are no proof, for it did so
	// elsewhere. A library that does not know the field takes them for one.
	Imported bool `json:"imported,omitempty"`

	Gen       string    `json:"gen"`
	JID       string    `json:"jid"`
	DeletedAt time.Time `json:"deletedAt"`
	Reason    string    `json:"reason,omitempty"`
}

const (
	statePaired  = "paired"
	stateDeleted = "deleted"
	statePurged  = "purged" // there was one, and nothing of it can be restored

	headID   = "head"
	deviceID = "device"
)

// savedDevice is the stored form of a store.Device. Public keys are derived.
type savedDevice struct {
	JID             string                     `json:"jid"`
	LID             string                     `json:"lid,omitempty"`
	RegistrationID  uint32                     `json:"registrationId"`
	NoiseKey        []byte                     `json:"noiseKey"`
	IdentityKey     []byte                     `json:"identityKey"`
	SignedPreKey    []byte                     `json:"signedPreKey"`
	SignedPreKeyID  uint32                     `json:"signedPreKeyId"`
	SignedPreKeySig []byte                     `json:"signedPreKeySig"`
	AdvSecretKey    []byte                     `json:"advSecretKey"`
	AccountDetails  []byte                     `json:"accountDetails,omitempty"`
	AccountSig      []byte                     `json:"accountSig,omitempty"`
	AccountSigKey   []byte                     `json:"accountSigKey,omitempty"`
	DeviceSig       []byte                     `json:"deviceSig,omitempty"`
	Platform        string                     `json:"platform,omitempty"`
	BusinessName    string                     `json:"businessName,omitempty"`
	PushName        string                     `json:"pushName,omitempty"`
	FacebookUUID    string                     `json:"facebookUuid,omitempty"`
	LIDMigration    int64                      `json:"lidMigrationTimestamp,omitempty"`
	More            map[string]json.RawMessage `json:"more,omitempty"` // fields of Device that this library does not know
	unknown         map[string]json.RawMessage
}

func encodeDevice(d *store.Device, before savedDevice) ([]byte, error) {
	s := savedDevice{
		JID: d.ID.String(), RegistrationID: d.RegistrationID,
		NoiseKey: d.NoiseKey.Priv[:], IdentityKey: d.IdentityKey.Priv[:],
		SignedPreKey: d.SignedPreKey.Priv[:], SignedPreKeyID: d.SignedPreKey.KeyID, SignedPreKeySig: d.SignedPreKey.Signature[:],
		AdvSecretKey: d.AdvSecretKey, Platform: d.Platform, BusinessName: d.BusinessName, PushName: d.PushName,
		LIDMigration: d.LIDMigrationTimestamp, unknown: before.unknown,
	}
	if !d.LID.IsEmpty() {
		s.LID = d.LID.String()
	}
	if a := d.Account; a != nil {
		s.AccountDetails, s.AccountSig = a.Details, a.AccountSignature
		s.AccountSigKey, s.DeviceSig = a.AccountSignatureKey, a.DeviceSignature
	}
	if d.FacebookUUID != uuid.Nil {
		s.FacebookUUID = d.FacebookUUID.String()
	}
	s.More = saveUnknownFields(d, before.More)
	return marshalWith(s, s.unknown)
}

// badDevice is an error that is never the host's to fix by pairing again without a
// thought: the record is left untouched.
func badDevice(what string) error {
	return fmt.Errorf("%w: the device's %s: it is left untouched: restore a backup, or delete the device's data to pair again", ErrCorrupt, what)
}

func decodeDevice(b []byte) (savedDevice, error) {
	var s savedDevice
	if err := json.Unmarshal(b, &s); err != nil {
		return s, badDevice("record does not parse")
	}
	s.unknown = unknownOf(b, s)
	switch {
	case len(s.NoiseKey) != 32:
		return s, badDevice("noise key is missing or short")
	case len(s.IdentityKey) != 32:
		return s, badDevice("identity key is missing or short")
	case len(s.SignedPreKey) != 32 || len(s.SignedPreKeySig) != 64:
		return s, badDevice("signed prekey is missing or short")
	}
	if _, err := types.ParseJID(s.JID); err != nil || s.JID == "" {
		return s, badDevice("JID does not parse")
	}
	return s, nil
}

// fill makes d the device that was saved.
func (s savedDevice) fill(d *store.Device) error {
	jid, err := types.ParseJID(s.JID)
	if err != nil {
		return badDevice("JID does not parse")
	}
	d.ID = &jid
	if s.LID != "" {
		if d.LID, err = types.ParseJID(s.LID); err != nil {
			return badDevice("LID does not parse")
		}
	}
	if s.FacebookUUID != "" {
		if d.FacebookUUID, err = uuid.Parse(s.FacebookUUID); err != nil {
			return badDevice("Facebook id does not parse")
		}
	}
	d.RegistrationID, d.AdvSecretKey = s.RegistrationID, s.AdvSecretKey
	d.NoiseKey = keys.NewKeyPairFromPrivateKey([32]byte(s.NoiseKey))
	d.IdentityKey = keys.NewKeyPairFromPrivateKey([32]byte(s.IdentityKey))
	d.SignedPreKey = &keys.PreKey{
		KeyPair: *keys.NewKeyPairFromPrivateKey([32]byte(s.SignedPreKey)), KeyID: s.SignedPreKeyID,
		Signature: (*[64]byte)(s.SignedPreKeySig),
	}
	d.Account = &waAdv.ADVSignedDeviceIdentity{
		Details: s.AccountDetails, AccountSignature: s.AccountSig,
		AccountSignatureKey: s.AccountSigKey, DeviceSignature: s.DeviceSig,
	}
	d.Platform, d.BusinessName, d.PushName = s.Platform, s.BusinessName, s.PushName
	d.LIDMigrationTimestamp = s.LIDMigration
	loadUnknownFields(d, s.More)
	return nil
}

// newDevice is an unpaired device with fresh keys, as sqlstore makes one.
// Nothing is written.
func newDevice(log waLog.Logger) *store.Device {
	var reg [4]byte
	_, _ = rand.Read(reg[:])
	adv := make([]byte, 32)
	_, _ = rand.Read(adv)
	d := &store.Device{
		Log: log, NoiseKey: keys.NewKeyPair(), IdentityKey: keys.NewKeyPair(),
		RegistrationID: binary.LittleEndian.Uint32(reg[:]), AdvSecretKey: adv,
	}
	d.SignedPreKey = d.IdentityKey.CreateSignedPreKey(1)
	return d
}

// install puts s behind every store of d.
func (s *deviceStore) install(d *store.Device) {
	if newer, ok := any(d).(interface {
		SetAllStores(store.AllSessionSpecificStores)
	}); ok {
		newer.SetAllStores(s)
	}
	d.Identities, d.Sessions, d.PreKeys, d.SenderKeys = s, s, s, s
	d.AppStateKeys, d.AppState, d.Contacts, d.ChatSettings = s, s, s, s
	d.MsgSecrets, d.PrivacyTokens, d.EventBuffer, d.LIDs = s, s, s, s
	// Stores that this library does not know by name.
	v := reflect.ValueOf(d).Elem()
	self := reflect.ValueOf(s)
	for i := range v.NumField() {
		f := v.Field(i)
		if v.Type().Field(i).IsExported() && f.Kind() == reflect.Interface && f.IsNil() &&
			v.Type().Field(i).Name != "Log" && f.Type().NumMethod() > 0 && self.Type().Implements(f.Type()) {
			f.Set(self)
		}
	}
	d.Container = s
	d.Initialized = true
}

// marshalWith adds to the JSON of v what was read and not understood.
func marshalWith(v any, unknown map[string]json.RawMessage) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil || len(unknown) == 0 {
		return b, err
	}
	all := make(map[string]json.RawMessage)
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, err
	}
	for k, raw := range unknown {
		if _, ok := all[k]; !ok {
			all[k] = raw
		}
	}
	return json.Marshal(all)
}

// unknownOf is what stands in b under names that v's type does not have.
func unknownOf(b []byte, v any) map[string]json.RawMessage {
	all := make(map[string]json.RawMessage)
	if json.Unmarshal(b, &all) != nil {
		return nil
	}
	t := reflect.TypeOf(v)
	for i := range t.NumField() {
		name := t.Field(i).Tag.Get("json")
		for j := range len(name) {
			if name[j] == ',' {
				name = name[:j]
				break
			}
		}
		delete(all, name)
	}
	return all
}

func (h head) encode() ([]byte, error) { return marshalWith(h, h.unknown) }

func decodeHead(b []byte) (head, error) {
	var h head
	if err := json.Unmarshal(b, &h); err != nil || h.Gen == "" || h.State != statePaired && h.State != stateDeleted && h.State != statePurged {
		return head{}, fmt.Errorf("%w: the record that names the account's device does not parse: it is left untouched: restore a backup", ErrCorrupt)
	}
	if h.Names != nil && len(h.Names.Key) != 32 {
		return head{}, fmt.Errorf("%w: the key of the rows' names is missing: restore a backup", ErrCorrupt)
	}
	h.unknown = unknownOf(b, h)
	return h, nil
}

// PutDevice saves d. The first save of a new device makes it the account's.
// The rows of an earlier one are purged once the new one has logged in.
func (s *deviceStore) PutDevice(ctx context.Context, d *store.Device) error {
	const op = "save device"
	if d.ID == nil {
		return ErrDeviceIDMustBeSet
	}
	if err := s.acquire(ctx, op, s.saveSem); err != nil {
		return err
	}
	defer func() { <-s.saveSem }()
	if !d.Initialized {
		// Also when the write fails: whatsmeow goes on using the stores.
		defer s.install(d)
	}
	s.mu.Lock()
	h, gen := s.head, s.gen
	s.mu.Unlock()
	var before savedDevice
	if gen != "" {
		if v, ok := s.get(ctx, tDevice, deviceID); ok {
			before, _ = decodeDevice(v)
		}
	}
	s.warnUnsavable(d)
	value, err := encodeDevice(d, before)
	if err != nil {
		return err
	}
	if gen != "" && h.JID == d.ID.String() {
		if old, ok := s.get(context.Background(), tDevice, deviceID); same(old, ok, value) {
			return s.gate.check(op)
		}
		return s.submit(op, []change{put(tDevice, deviceID, value)}, Batch{})
	}
	return s.adopt(op, d, h, value)
}

// newGeneration names the rows of a device. The number is for people. The rest
// of the name never comes twice, though somebody takes the account's record
// away: no device finds the rows of another under its own name.
var newGeneration = func(n int) string { return fmt.Sprintf("d%d-%s", n, strings.ToLower(rand.Text()[:10])) }

// adopt begins a generation with d. Nothing else of it exists yet. A deleted
// device stays restorable until d has logged in: a pairing fails if its last
// word does not reach the service, and whatsmeow deletes what was saved.
func (s *deviceStore) adopt(op string, d *store.Device, h head, value []byte) error {
	switch {
	case h.State == stateDeleted:
		h.Kept = &kept{Gen: h.Gen, JID: h.JID, DeletedAt: h.DeletedAt, Reason: h.Reason}
	case h.Gen != "":
		h.Purge = append(slices.Clone(h.Purge), h.Gen)
	}
	if h.Gen == "" && h.Names == nil && s.cfg.codec.aead != nil {
		h.Names = newHeadNames(false) // a new account, sealed from the beginning
	}
	h.Gen, h.Next, h.State = newGeneration(h.Next), h.Next+1, statePaired
	h.JID, h.DeletedAt, h.Reason = d.ID.String(), time.Time{}, ""
	encoded, err := h.encode()
	if err != nil {
		return err
	}
	if err := s.flushBefore(op); err != nil {
		return err
	}
	s.mu.Lock()
	s.resetLocked(h.Gen)
	before := s.head.Names
	s.mu.Unlock()
	s.useNames(h.Names)
	if err := s.submit(op, []change{put(tDevice, deviceID, value), put(tHead, headID, encoded)}, Batch{}); err != nil {
		s.mu.Lock()
		s.gen = ""
		s.mu.Unlock()
		s.useNames(before)
		return err
	}
	s.mu.Lock()
	s.head = h
	s.mu.Unlock()
	s.purgeInBackground()
	s.moveInBackground()
	return nil
}

// DeleteDevice marks the device as deleted. Its rows stay until another device
// is paired; of a device that never logged in nothing is kept. Everything that
// still comes through d fails.
func (s *deviceStore) DeleteDevice(ctx context.Context, d *store.Device) error {
	const op = "delete device"
	if d.ID == nil {
		return ErrDeviceIDMustBeSet
	}
	if err := s.acquire(ctx, op, s.saveSem); err != nil {
		return err
	}
	defer func() { <-s.saveSem }()
	if err := s.ready(op); err != nil {
		return err
	}
	s.mu.Lock()
	h := s.head
	s.mu.Unlock()
	if h.JID != d.ID.String() {
		return nil // nothing of that name, as in a database
	}
	h.State, h.DeletedAt, h.Reason = stateDeleted, time.Now().UTC(), s.c.takeReason()
	if k := h.Kept; k != nil { // the pairing came to nothing
		h.Purge = append(slices.Clone(h.Purge), h.Gen)
		h.Gen, h.JID, h.DeletedAt, h.Reason, h.Kept = k.Gen, k.JID, k.DeletedAt, k.Reason, nil
	}
	if err := s.writeHead(op, h); err != nil {
		return err
	}
	s.retire(ErrDeviceDeleted)
	return nil
}
