package authstore

import (
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.mau.fi/whatsmeow/store"
	"go.mau.fi/whatsmeow/types"
)

const (
	// sqlOldest and sqlSchema are the versions of whatsmeow's tables that this
	// code reads.
	sqlOldest = 11
	sqlSchema = 15

	// Tables and columns that came with a version.
	sqlSenderTimestamp = 12
	sqlRetryBuffer     = 13
	sqlNCTSalt         = 14
	sqlCompanionNonce  = 15

	// preKeyGap is how far the id counter is set beyond the ids in the source:
	// sqlstore takes the next id from what rows are left, so higher ones may
	// have been given out and used up.
	preKeyGap = 4096

	// movedMark is added to the compat number of a database whose device has
	// moved: every sqlstore then refuses to open it.
	movedMark = 1_000_000
)

type sqlSource struct {
	db     *sql.DB
	device types.JID
}

// FromSQL is a device in a database of whatsmeow's sqlstore, SQLite or
// Postgres. The schema may have version 11 (whatsmeow of December 2025) to 15
// (August 2026), whatever whatsmeow this is built with. An older schema is
// brought up to date by sqlstore's own Upgrade. device is its JID with the
// device number; the zero JID is the only one there is.
//
// The database is only read, in one transaction, and again for the comparison,
// which notices what was written meanwhile. It has no lock that would tell of
// a client that uses it: SourceStopped says that there is none, and RetireSource
// keeps one from coming back.
func FromSQL(db *sql.DB, device types.JID) Source { return sqlSource{db, device} }

func (q sqlSource) String() string { return "whatsmeow's SQL store" }

func (q sqlSource) usable(o *importConfig) error {
	if o != nil && !o.stopped && !o.dryRun {
		return fmt.Errorf("%w, then confirm with SourceStopped: a database does not tell", ErrSourceInUse)
	}
	return nil
}

func (q sqlSource) open(ctx context.Context) (view, error) {
	tx, err := q.db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil { // SQLite's transactions are as strict without the words
		if tx, err = q.db.BeginTx(ctx, nil); err != nil {
			return nil, fmt.Errorf("begin: %w", err)
		}
	}
	v := &sqlView{tx: tx}
	if err := v.begin(ctx, q.device); err != nil {
		v.close()
		return nil, err
	}
	return v, nil
}

// retire makes sqlstore refuse the database from now on: its Upgrade, which
// every program calls first, finds a schema that is too new for it. Nothing
// else is changed; taking movedMark off whatsmeow_version.compat undoes it. A
// database with other devices is left alone.
func (q sqlSource) retire(ctx context.Context) error {
	var devices int
	if err := q.db.QueryRowContext(ctx, "SELECT COUNT(*) FROM whatsmeow_device").Scan(&devices); err != nil {
		return err
	}
	if devices != 1 {
		return fmt.Errorf("the database has %d devices, and marking it would stop all of them", devices)
	}
	return RetireSQL(ctx, q.db)
}

// RetireSQL marks a database as RetireSource does, whichever devices it has: for
// when all of them have moved. It may be called again.
func RetireSQL(ctx context.Context, db *sql.DB) error {
	_, err := db.ExecContext(ctx, fmt.Sprintf("UPDATE whatsmeow_version SET compat=COALESCE(NULLIF(compat, 0), version)+%d WHERE compat<=%d", movedMark, movedMark))
	if err != nil {
		return fmt.Errorf("authstore: mark the database as moved: %w", err)
	}
	return nil
}

type sqlView struct {
	tx      *sql.Tx
	version int // of the schema
	device  types.JID
	saved   savedDevice
	warn    []string
}

func (v *sqlView) jid() types.JID     { return v.device }
func (v *sqlView) warnings() []string { return v.warn }
func (v *sqlView) close()             { _ = v.tx.Rollback() }

func (v *sqlView) begin(ctx context.Context, device types.JID) error {
	var version, compat int
	if err := v.tx.QueryRowContext(ctx, "SELECT version, compat FROM whatsmeow_version").Scan(&version, &compat); err != nil {
		return fmt.Errorf("%w: this is no database of whatsmeow's sqlstore, or one of an early version: open it with a current sqlstore once (Upgrade): %w", ErrNoDevice, err)
	}
	switch {
	case compat > movedMark:
		return fmt.Errorf("%w: its device has moved to another store. If it was never used there, take %d off whatsmeow_version.compat to use it here again", ErrNoDevice, movedMark)
	case version < sqlOldest:
		return fmt.Errorf("its schema is version %d: open it with a current sqlstore once (Upgrade), then import", version)
	case compat > sqlSchema:
		return fmt.Errorf("%w (schema version %d)", ErrNewerFormat, version)
	case version > sqlSchema:
		v.warn = append(v.warn, fmt.Sprintf("the schema is version %d: what whatsmeow added after version %d was not read", version, sqlSchema))
	}
	v.version = version
	columns := `jid, lid, facebook_uuid, registration_id, noise_key, identity_key,
		signed_pre_key, signed_pre_key_id, signed_pre_key_sig,
		adv_key, adv_details, adv_account_sig, adv_account_sig_key, adv_device_sig,
		platform, business_name, push_name, lid_migration_ts`
	if version >= sqlCompanionNonce {
		columns += ", companion_meta_nonce"
	} else {
		columns += ", ''"
	}
	rows, err := v.tx.QueryContext(ctx, "SELECT "+columns+" FROM whatsmeow_device")
	if err != nil {
		return fmt.Errorf("read whatsmeow_device: %w", err)
	}
	defer rows.Close()
	var names []string
	var found []savedDevice
	for rows.Next() {
		var d savedDevice
		var lid, fb, nonce sql.NullString
		if err := rows.Scan(&d.JID, &lid, &fb, &d.RegistrationID, &d.NoiseKey, &d.IdentityKey,
			&d.SignedPreKey, &d.SignedPreKeyID, &d.SignedPreKeySig,
			&d.AdvSecretKey, &d.AccountDetails, &d.AccountSig, &d.AccountSigKey, &d.DeviceSig,
			&d.Platform, &d.BusinessName, &d.PushName, &d.LIDMigration, &nonce); err != nil {
			return fmt.Errorf("read whatsmeow_device: %w", err)
		}
		if nonce.String != "" { // a field that only newer versions of whatsmeow have
			value, err := json.Marshal(nonce.String)
			if err != nil {
				return err
			}
			d.More = map[string]json.RawMessage{"CompanionMetaNonce": value}
		}
		d.LID, d.FacebookUUID = lid.String, fb.String
		names = append(names, d.JID)
		if device.IsEmpty() || d.JID == device.String() {
			found = append(found, d)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read whatsmeow_device: %w", err)
	}
	switch {
	case len(found) > 1:
		return fmt.Errorf("%w: there are %d devices: name one: %s", ErrNoDevice, len(names), strings.Join(names, ", "))
	case len(found) == 0:
		return fmt.Errorf("%w (it has %d others)", ErrNoDevice, len(names))
	}
	v.saved = found[0]
	if v.device, err = types.ParseJID(v.saved.JID); err != nil {
		return badDevice("JID does not parse")
	}
	return nil
}

// each runs a query for the device and gives its rows to scan.
func (v *sqlView) each(ctx context.Context, table, columns, rest string, scan func(*sql.Rows) error) error {
	args := []any{v.saved.JID}
	if rest == noDevice {
		rest, args = "", nil
	}
	rows, err := v.tx.QueryContext(ctx, "SELECT "+columns+" FROM whatsmeow_"+table+" "+rest, args...)
	if err != nil {
		return fmt.Errorf("read whatsmeow_%s: %w", table, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return fmt.Errorf("read whatsmeow_%s: %w", table, err)
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read whatsmeow_%s: %w", table, err)
	}
	return nil
}

const (
	ofOurJID = "WHERE our_jid=$1"
	ofJID    = "WHERE jid=$1"
	noDevice = "-"
)

// table translates one of our tables from theirs.
func (v *sqlView) table(ctx context.Context, t tableID) (*image, error) {
	im := newImage()
	add := func(id string, value []byte) { im.apply(put(t, id, value)) }
	var err error
	switch t {
	case tDevice:
		value, e := marshalWith(v.saved, nil)
		if e != nil {
			return nil, e
		}
		add(deviceID, value)
	case tMisc:
		if err = v.preKeyCounter(ctx, add); err == nil && v.version >= sqlNCTSalt {
			err = v.each(ctx, "nct_salt", "salt", ofOurJID, func(r *sql.Rows) error {
				var salt []byte
				err := r.Scan(&salt)
				add(nctSalt, salt)
				return err
			})
		}
	case tSession:
		err = v.each(ctx, "sessions", "their_id, session", ofOurJID, func(r *sql.Rows) error {
			var id string
			var b []byte
			err := r.Scan(&id, &b)
			if err == nil && b != nil {
				add(id, b)
			}
			return err
		})
	case tIdentity:
		err = v.each(ctx, "identity_keys", "their_id, identity", ofOurJID, func(r *sql.Rows) error {
			var id string
			var b []byte
			err := r.Scan(&id, &b)
			add(id, b)
			return err
		})
	case tPreKey:
		err = v.each(ctx, "pre_keys", "key_id, key, uploaded", ofJID, func(r *sql.Rows) error {
			var id uint32
			var b []byte
			var uploaded bool
			if err := r.Scan(&id, &b, &uploaded); err != nil {
				return err
			}
			if len(b) != 32 {
				return fmt.Errorf("%w: prekey %d has %d bytes", ErrCorrupt, id, len(b))
			}
			add(preKeyID(id), append([]byte{asByte(uploaded)}, b...))
			return nil
		})
	case tSenderKey:
		err = v.each(ctx, "sender_keys", "chat_id, sender_id, sender_key", ofOurJID, func(r *sql.Rows) error {
			var chat, sender string
			var b []byte
			err := r.Scan(&chat, &sender, &b)
			add(senderKeyID(chat, sender), b)
			return err
		})
	case tAppKey:
		err = v.each(ctx, "app_state_sync_keys", "key_id, key_data, timestamp, fingerprint", ofJID, func(r *sql.Rows) error {
			var id []byte
			var k store.AppStateSyncKey
			err := r.Scan(&id, &k.Data, &k.Timestamp, &k.Fingerprint)
			add(string(id), appKeyValue(k))
			return err
		})
	case tAppState:
		err = v.each(ctx, "app_state_version", "name, version, hash", ofJID, func(r *sql.Rows) error {
			var name string
			var version int64
			var hash []byte
			err := r.Scan(&name, &version, &hash)
			add(name, append(binary.LittleEndian.AppendUint64(nil, uint64(version)), hash...))
			return err
		})
	case tAppMAC: // of several versions the newest counts
		err = v.each(ctx, "app_state_mutation_macs", "name, version, index_mac, value_mac", ofJID+" ORDER BY version", func(r *sql.Rows) error {
			var name string
			var version int64
			var index, value []byte
			err := r.Scan(&name, &version, &index, &value)
			add(macID(name, index), append(binary.LittleEndian.AppendUint64(nil, uint64(version)), value...))
			return err
		})
	case tContact:
		err = v.each(ctx, "contacts", "their_jid, first_name, full_name, push_name, business_name, redacted_phone", ofOurJID, func(r *sql.Rows) error {
			var id string
			var first, full, push, business, phone sql.NullString
			err := r.Scan(&id, &first, &full, &push, &business, &phone)
			add(id, contactValue(types.ContactInfo{FirstName: first.String, FullName: full.String,
				PushName: push.String, BusinessName: business.String, RedactedPhone: phone.String}))
			return err
		})
	case tChat:
		err = v.each(ctx, "chat_settings", "chat_jid, muted_until, pinned, archived", ofOurJID, func(r *sql.Rows) error {
			var id string
			var muted int64
			var pinned, archived bool
			err := r.Scan(&id, &muted, &pinned, &archived)
			add(id, fieldsOf(max(muted, mutedForever), asByte(pinned), asByte(archived)))
			return err
		})
	case tToken:
		columns := "their_jid, token, timestamp, NULL"
		if v.version >= sqlSenderTimestamp {
			columns = "their_jid, token, timestamp, sender_timestamp"
		}
		err = v.each(ctx, "privacy_tokens", columns, ofOurJID, func(r *sql.Rows) error {
			var id string
			var t token
			var sent sql.NullInt64
			err := r.Scan(&id, &t.bytes, &t.at, &sent)
			t.sent = max(sent.Int64, 0)
			add(id, t.value())
			return err
		})
	case tOutgoing:
		if v.version < sqlRetryBuffer {
			break
		}
		err = v.each(ctx, "retry_buffer", "chat_jid, message_id, format, plaintext, timestamp", ofOurJID, func(r *sql.Rows) error {
			var chat, id, format string
			var plaintext []byte
			var at int64
			err := r.Scan(&chat, &id, &format, &plaintext, &at)
			if jid, e := types.ParseJID(chat); e == nil {
				chat = jid.ToNonAD().String()
			}
			add(outgoingIDOf(chat, id), outgoingValue(at, format, plaintext))
			return err
		})
	case tLID:
		err = v.each(ctx, "lid_map", "lid, pn", noDevice, func(r *sql.Rows) error {
			var lid, pn string
			err := r.Scan(&lid, &pn)
			add("l"+lid, []byte(pn))
			add("p"+pn, []byte(lid))
			return err
		})
	case tEvent, tSeen:
		err = v.events(ctx, im, t)
	case tSecret:
		err = v.each(ctx, "message_secrets", "chat_jid, sender_jid, message_id, key", ofOurJID, func(r *sql.Rows) error {
			var chat, sender, id string
			var secret []byte
			err := r.Scan(&chat, &sender, &id, &secret)
			value := appendBytes(appendBytes(appendBytes(appendBytes(nil, []byte(chat)), []byte(sender)), []byte(id)), secret)
			add(secretPrefix(types.MessageID(id))+shortHash(chat, sender)+"/"+epochID(0), value)
			return err
		})
	}
	if err != nil {
		return nil, err
	}
	return settled(t, im)
}

// preKeyCounter sets the counter beyond every id that may have been given out.
func (v *sqlView) preKeyCounter(ctx context.Context, add func(string, []byte)) error {
	var highest sql.NullInt64
	err := v.tx.QueryRowContext(ctx, "SELECT MAX(key_id) FROM whatsmeow_pre_keys WHERE jid=$1", v.saved.JID).Scan(&highest)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read whatsmeow_pre_keys: %w", err)
	}
	add(nextPreKey, binary.LittleEndian.AppendUint32(nil, preKeyAfter(uint32(highest.Int64), preKeyGap)))
	return nil
}

func preKeyAfter(id uint32, gap uint32) uint32 { return (id+gap)%lastPreKey + 1 }

// events are finished ones (no plaintext) and others.
func (v *sqlView) events(ctx context.Context, im *image, t tableID) error {
	n := 0
	return v.each(ctx, "event_buffer", "ciphertext_hash, plaintext, server_timestamp, insert_timestamp", ofOurJID+" ORDER BY ciphertext_hash", func(r *sql.Rows) error {
		var hash, plaintext []byte
		var server, inserted int64
		if err := r.Scan(&hash, &plaintext, &server, &inserted); err != nil {
			return err
		}
		value := eventValue(inserted, server)
		// Drivers differ in whether empty is nil; no message is empty.
		switch finished := len(plaintext) == 0; {
		case finished && t == tSeen:
			c := put(tSeen, hex.EncodeToString(hash), value)
			c.bucket = "import-" + strconv.Itoa(n/seenChunk)
			n++
			im.apply(c)
		case !finished && t == tEvent:
			im.apply(put(tEvent, hex.EncodeToString(hash), append(value, plaintext...)))
		}
		return nil
	})
}
