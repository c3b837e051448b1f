package sends

import "fmt"

// Text says in plain sentences what a refusal with this code means, and what a
// person should do. 0 stands for no answer at all. WhatsApp documents none of
// the codes: the texts say what hosts of whatsmeow and of other libraries have
// found.
func Text(code int) (means, do string) {
	switch code {
	case 0:
		return "WhatsApp takes the messages and does not say what became of them. They may have arrived, or not.",
			"Look on the phone whether they arrived. Ask for a new connection once; if that does not help, update whatsmeow."
	case 400:
		return "WhatsApp finds the messages malformed. Often this version of whatsmeow is too old, or the recipients are addressed by phone number where WhatsApp wants their LID.",
			"Update whatsmeow and restart."
	case 403:
		return "This account may not write there: to a group in which only admins write, to a group that it has left, or to somebody who does not want it.",
			"Check the group's settings and whether the account is in it. Do not try the same recipients again and again."
	case 404:
		return "The recipients are not known to WhatsApp.",
			"Check the numbers, with their country codes; whatsmeow's IsOnWhatsApp tells who is there."
	case 429:
		return "Too many messages in too short a time.",
			"Stop sending for some minutes, then send more slowly. Going on may lead to a ban."
	case NewChats:
		return "WhatsApp does not let this account begin new chats for a while; existing ones mostly go on. Versions of whatsmeow before May 2026 get this for single contacts too.",
			"Write only to people who wrote to this account first, and wait: it ends after hours or days, and the phone shows a notice. If whatsmeow is older than May 2026, update it."
	case 479:
		return "WhatsApp cannot use the message as it is addressed or encrypted: a wrong number, a LID without a number, or outdated knowledge of the recipient's devices.",
			"Check the numbers with whatsmeow's IsOnWhatsApp. If right ones are refused too, ask for a new connection, then update whatsmeow."
	case 500, 503:
		return "WhatsApp's own servers failed.",
			"Wait some minutes and send again. If it lasts for hours, check whether other accounts work, and update whatsmeow."
	}
	return fmt.Sprintf("WhatsApp refused the messages with code %d, which this library does not know.", code),
		"Look on the phone for a notice, check the recipients, and update whatsmeow."
}
