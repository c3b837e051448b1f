package stability_test

import (
	"regexp"
	"time"
)

// lie is one way in which a status can contradict the truth.
type lie string

const (
	lieVisible  lie = "CONNECTED, and the service has no connection of ours"
	lieDead     lie = "CONNECTED on a dead link"
	lieOffline  lie = "not CONNECTED, and the service has us logged in on a live link"
	lieTwice    lie = "two instances CONNECTED"
	lieActive   lie = "active, and the lock is another's"
	liePassive  lie = "passive, and the lock is ours"
	lieOverdue  lie = "an attempt is due, and none begins"
	liePairing  lie = "NEEDS_PAIRING, and the session is valid"
	lieHealth   lie = "health says otherwise than the status"
	lieNoReason lie = "an outage without a reason or without a beginning"
	lieOld      lie = "the reason or the beginning of an outage that is over"
	lieDemand   lie = "restart_required, and WhatsApp asked for nothing"
	lieHere     lie = "a holder of this process is not named as one"
	lieStuck    lie = "an incident of an outage while a scan is waited for"
	lieRoute    lie = "a text for people names an HTTP route"
)

// bounds is for how long each may be told at a stretch.
var bounds = map[lie]time.Duration{
	lieVisible: time.Second,
	lieDead:    noticing,
	lieOffline: time.Second,
	lieTwice:   0,
	lieActive:  0,
	// The margin: trust ends that long before the lease can, and a store that
	// did not hear the renewals may not hear the release either.
	liePassive: 10 * time.Second,
	// It is written down first: for so long a store may take to answer before it
	// counts as out of reach.
	lieOverdue: 11 * time.Second,
	liePairing: time.Second, // until whatsmeow tells of the phone
	lieHealth:  0, lieNoReason: 0,
	// Status may know of an end before the service does, and the other way round.
	lieOld: time.Second, lieDemand: 0,
	// It takes a look at the lock to know who has it now.
	lieHere: time.Minute, lieStuck: 0, lieRoute: 0,
}

var route = regexp.MustCompile(`\b(GET|POST|PUT|DELETE) /|/api/|/health\b|/ready\b`)
